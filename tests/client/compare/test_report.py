from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from client.compare.judge.findings import conclude
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture
from client.compare.tell.cautions import cautions
from client.compare.tell.document import document
from client.compare.tell.page import method, page
from client.compare.tell.report import Fitted, view, write
from client.compare.tell.tables import difference_grid, level_grid, models_grid
from client.compare.tell.verdicts import sentences
from client.load.record import record_from_json
from tests.client.compare.factories import closed, results


def test_what_is_concluded_can_be_worked_out_by_hand() -> None:
    findings = conclude(closed(results((0.1, 0.2))))
    assert findings.summaries[0, 0].first_token.p50 == pytest.approx(0.1015)
    assert findings.summaries[1, 0].output_rate == pytest.approx(5 * 4 * 3 / 30)  # five runs of six seconds
    first, per_token, total, *whole = findings.differences[1, 0]
    assert (first.metric, first.verdict, first.pairs) == ("first_token", "slower", 20)
    assert first.ratio == pytest.approx(2.0)
    assert first.difference == pytest.approx(0.1015)
    assert per_token.verdict == "no difference shown"
    assert total.verdict == "slower"
    assert [one.metric for one in whole] == ["first_token_p95", "inter_token_p99", "total_p95", "throughput"]
    assert [one.pairs for one in whole] == [5] * 4


def test_the_document_holds_every_record() -> None:
    made = results()
    told = orjson.loads(orjson.dumps(document(conclude(made))))
    assert told["schema"] == "dyno.compare/2"
    assert [cell["repeat"] for cell in told["cells"]] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for cell, measured in zip(told["cells"], made.measured, strict=True):
        assert [record_from_json(one).facts for one in cell["records"]] == [r.facts for r in measured.run.records]
        assert [record_from_json(one).row for one in cell["records"]] == [0, 1, 2, 3]
    assert told["differences"][0]["metrics"][0]["verdict"] == "slower"


def test_grids_name_their_rows() -> None:
    findings = conclude(results())
    assert models_grid(findings).rows[0] == ("parameters", "2.00 M", "2.00 M")
    level = {row[0]: row[1:] for row in level_grid(findings, 0).rows}
    assert level["answered / sent"] == ("20 / 20", "20 / 20")
    assert level["generated tokens/s, served at this rate"] == ("2.00", "2.00")
    assert "generated tokens/s" in {row[0] for row in level_grid(conclude(closed(results())), 0).rows}
    made = results()
    one = made.measured[0].run  # of the first
    one_left = (replace(one.records[0], cancelled=True, may_leave=True), *one.records[1:])
    made.measured[0] = replace(made.measured[0], run=replace(one, records=one_left))
    assert level_grid(conclude(made), 0).rows[0] == ("answered / sent", "19 / 20, 1 left", "20 / 20")
    assert level["first token p50, ms"] == ("102 [101, 102]", "203 [202, 204]")
    assert difference_grid(findings, 0).rows[0] == (
        "arch1",
        "first token",
        "102 [101, 102]",
        "2.00 [2.00, 2.00]",
        "0",
        "± 0.0%",
        "slower",
    )


def test_findings_in_words() -> None:
    said = sentences(conclude(results()))
    assert said[0] == (
        "At 2/s, Poisson, time to first token of arch1 against arch0: slower "
        "(ratio 2.00, 95 % interval 2.00 to 2.00, 20 pairs)."
    )
    assert "end to end of arch1 against arch0: slower (ratio 1.84, 95 % interval 1.84 to 1.84, 5 rounds)." in said[5]


def test_what_correction_took_away_is_told_wherever_the_verdict_is() -> None:
    """The interval of this difference leaves out 1."""
    findings = conclude(results())
    first, *others = findings.differences[1, 0]
    findings = replace(findings, differences={(1, 0): (replace(first, adjusted=0.19), *others)})
    said = "no difference shown (p 0.19 after correction)"
    assert f"of arch1 against arch0: {said} (ratio 2.00, 95 % interval 2.00 to 2.00" in sentences(findings)[0]
    assert difference_grid(findings, 0).rows[0][-1] == "not shown (p 0.19)"
    assert f"2.00 times as long (2.00 to 2.00), {said}" in page(findings)
    assert orjson.loads(orjson.dumps(document(findings)))["differences"][0]["metrics"][0]["verdict"] == (
        "no difference shown"
    ), "programs read the verdict alone"


def test_the_page_says_what_is_corrected_for_what() -> None:
    """Two families: it must not say that there is one."""
    told = page(conclude(results()))
    assert "for each of these two kinds, with every comparison of this page that is of it; a control" in told
    assert "are corrected among themselves, and so are differences of bits per byte." in told
    assert "of tails and throughput means over rounds" in told


def test_the_page_counts_the_servers_that_were_started() -> None:
    made = results((0.1, 0.2, 0.1))
    assert "For this no servers were started on this machine." in method(made)
    sides = (Architecture("a", "a"), Architecture("b", target="http://x"), Architecture("a again", "a"))
    made.experiment = replace(made.experiment, architectures=sides, control=2)
    assert "For this 2 servers were started on this machine." in method(made)


def test_few_rounds_and_a_stop_are_cautioned_about() -> None:
    made = results(repeats=2)
    made.interrupted = True
    assert any("stopped early" in caution for caution in cautions(conclude(made)))
    assert any("2 rounds" in caution for caution in cautions(conclude(made)))
    assert cautions(conclude(results())) == ()


def test_nothing_measured_yet_is_a_report_too() -> None:
    empty = Results(results().experiment, results().cards, {})
    assert "nothing can be said" in page(conclude(empty))


class Outline(HTMLParser):
    """Opened and closed tags, and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    made = results()
    outline = Outline()
    outline.feed(page(conclude(made)))
    assert outline.open == []
    assert outline.fetched == []


def test_paper_gets_all_of_it() -> None:
    """Neither a cell beyond the edge of its box, nor what is folded on a screen, nor a dark screen's colours."""
    style = page(conclude(results())).partition("<style>")[2].partition("</style>")[0]
    screen, _, printed = style.partition("@media print")
    assert "details::details-content { content-visibility: visible" in printed
    assert ".wide, pre { overflow: visible; }" in printed
    assert "th, td { white-space: normal" in printed
    assert "@media screen and (prefers-color-scheme: dark)" in screen


def test_a_phone_gets_verdicts_without_scrolling() -> None:
    """No plot is wider than its column, no legend stays in the way, cells of a comparison stand one under another."""
    told = page(conclude(results()))
    style = told.partition("<style>")[2].partition("</style>")[0]
    assert "min-width" not in style.partition("svg {")[2].partition("}")[0]
    small = style.partition("@media screen and (max-width: 40rem)")[2].partition("@media print")[0]
    assert ".legend { position: static; }" in small
    assert "svg" not in small
    assert ".cards td::before { content: attr(data-head)" in small
    assert '<td data-head="verdict">slower</td>' in told


def test_names_cannot_break_the_page() -> None:
    made = results()
    object.__setattr__(made.experiment, "name", "<script>alert(1)</script>")
    assert "<script>alert" not in page(conclude(made))


def test_the_folder_gets_both_files_and_nothing_half(tmp_path: Path) -> None:
    write(conclude(results()), tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"report.html", "results.json"}


@pytest.mark.parametrize("width", [80, 130])
def test_no_terminal_breaks_a_cell(width: int) -> None:
    """Where a table does not fit, a row is a sentence that says of each cell what it is."""
    console = Console(width=width, color_system=None)
    findings = conclude(results((0.1, 0.2, 0.3)))
    with console.capture() as captured:
        console.print(Fitted(difference_grid(findings, 0)), Fitted(models_grid(findings)))
    lines = captured.get().splitlines()
    words = " ".join(captured.get().split())
    for cell in (cell for row in difference_grid(findings, 0).rows for cell in row):
        assert cell in words
    assert max(map(len, lines)) <= width
    assert any(line.split() == ["parameters", *["2.00", "M"] * 3] for line in lines), "one that fits is a table"
    assert ("arch1: time first token; difference, ms 102 [101, 102]; ratio 2.00" in words) == (width == 80)
    assert any(line.split()[:3] == ["arch1", "first", "token"] for line in lines) == (width == 130)


def test_the_screen_has_verdicts_and_notes() -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(view(conclude(results(repeats=2))))
    assert "seems slower" in captured.get()
    assert "note: 2 rounds" in captured.get()
