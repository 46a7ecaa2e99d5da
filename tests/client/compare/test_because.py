"""A difference end to end is told apart by where the time went, and the parts add up."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from client.compare.judge.because import PARTS, Split, parts, split
from client.compare.judge.findings import conclude
from client.compare.judge.words import METRIC_NAMES, PART_NAMES, SHORT_NAMES
from client.compare.measure.results import Results
from client.compare.tell.document import document
from client.compare.tell.figures import figures
from client.compare.tell.tables import because_grid, grids
from client.compare.tell.tidy import numbers
from client.load.record import Record, Run
from tests.client.compare.factories import TOLD, record, results, run

assert TOLD.latency is not None
LATENCY = replace(TOLD.latency, queued=0.01, prefill=0.02, decode=0.05, delayed=0.01, preempted=0.0)


def of(row: int = 0, total: float = 0.1, **changes: float) -> Record:
    """A request that took so long, and what the server told of it."""
    latency = replace(LATENCY, **changes)  # type: ignore[arg-type]
    return replace(record(row, 0.05), end=total, facts=replace(TOLD, latency=latency))


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (of(), (0.01, 0.02, 0.04, 0.01, 0.02)),
        (of(preempted=0.02), (0.01, 0.02, 0.02, 0.03, 0.02)),
        (of(preempted=0.05), (0.01, 0.01, 0.0, 0.06, 0.02)),  # more than the decode: before the first token
        (of(delayed=0.0, total=0.08), (0.01, 0.02, 0.05, 0.0, 0.0)),
    ],
)
def test_parts_add_up_to_the_time_of_the_client(told: Record, seconds: tuple[float, ...]) -> None:
    found = parts(told)
    assert found == pytest.approx(seconds)
    assert found is not None and sum(found) == pytest.approx(told.total, abs=1e-12)


def test_a_server_that_does_not_tell_has_no_parts() -> None:
    assert parts(replace(of(), facts=None)) is None
    assert parts(replace(of(), facts=replace(TOLD, latency=None))) is None


def slower(n: int) -> tuple[Run, Run]:
    """Round n: two pairs, of which the other waits n ms longer in the queue, and takes 4 ms more for its own tokens."""
    more = n / 1000
    later = [of(row, total=0.104 + more, queued=0.01 + more, decode=0.054) for row in (0, 1)]
    return run([of(0), of(1)]), run(later)


def named(found: Split | None) -> dict[str, tuple[float, float, float]]:
    assert found is not None
    return {one.name: (one.seconds, one.interval.low, one.interval.high) for one in (found.whole, *found.parts)}


def test_every_part_has_an_interval_over_rounds() -> None:
    found = split([slower(n) for n in (1, 2, 3)])
    told = named(found)
    assert found is not None and (found.pairs, found.rounds) == (6, 3)
    reach = 4.302653 * 0.001 / 3**0.5  # Student's t with two degrees of freedom
    assert told["queue"] == pytest.approx((0.002, 0.002 - reach, 0.002 + reach), rel=1e-5)
    assert told["total"] == pytest.approx((0.006, 0.006 - reach, 0.006 + reach), rel=1e-5)
    assert told["decode"] == pytest.approx((0.004,) * 3)
    assert [told[name] for name in ("prefill", "others", "outside")] == [pytest.approx((0.0,) * 3, abs=1e-12)] * 3


def test_requests_that_one_side_lost_are_no_pairs() -> None:
    base, other = slower(2)
    broken = replace(other.records[0], error="gone", end=9.0)
    leaving = replace(other.records[1], may_leave=True, end=9.0)
    found = split([(base, replace(other, records=(broken, other.records[1])))])
    assert found is not None and found.pairs == 1
    assert named(found)["total"][0] == pytest.approx(0.006)
    assert split([(base, replace(other, records=(broken, leaving)))]) is None


def made() -> Results:
    whole = results()
    for n, m in enumerate(whole.measured):
        whole.measured[n] = replace(m, run=slower(m.cell.repeat)[m.cell.architecture])
    return whole


def test_it_is_in_the_tables_the_page_and_both_files() -> None:
    findings = conclude(made())
    table = because_grid(findings, 0)
    assert table in grids(findings)
    assert table.title.startswith("Where the difference from arch0 comes from at 2/s, Poisson: means")
    cells = dict(zip(table.heads, table.rows[0], strict=True))
    assert (cells[""], cells["decode in shared passes"]) == ("arch1", "4.00 [4.00, 4.00]")
    assert cells["end to end"] == "6.00 [4.04, 7.96]"
    [drawn] = [one for one in figures(findings) if one.part == "Where the difference from arch0 comes from"]
    assert "arch1: end to end 6.00 ms (4.04 to 7.96), in the queue 2.00 ms (0.037 to 3.96), prefill in" in drawn.svg
    [told] = orjson.loads(orjson.dumps(document(findings)))["because"]
    assert (told["architecture"], told["level"], told["baseline"], told["pairs"]) == (1, 0, 0, 10)
    assert [one["name"] for one in told["parts"]] == list(PARTS)
    assert sum(one["seconds"] for one in told["parts"]) == pytest.approx(told["whole"]["seconds"], abs=1e-12)
    lines = {one.statistic: one for one in numbers(findings) if one.statistic.startswith("mean difference")}
    assert len(lines) == 1 + len(PARTS)
    assert (lines["mean difference"].value, lines["mean difference"].against) == (pytest.approx(0.006), "arch0")
    assert lines["mean difference, queue"].value == pytest.approx(0.002)


def test_servers_that_do_not_tell_and_requests_that_failed_leave_it_out() -> None:
    silent, failed = made(), made()
    for n, m in enumerate(silent.measured):
        quiet = tuple(replace(r, facts=None) for r in m.run.records)
        silent.measured[n] = replace(m, run=replace(m.run, records=quiet))
    last = failed.measured[-1]
    broken = (replace(last.run.records[0], error="gone"), *last.run.records[1:])
    failed.measured[-1] = replace(last, run=replace(last.run, records=broken))
    for whole in (silent, failed):
        findings = conclude(whole)
        assert findings.because == {(1, 0): None}
        assert because_grid(findings, 0) not in grids(findings)
        assert not [one for one in figures(findings) if one.part.startswith("Where")]
        assert document(findings)["because"] == []


def test_names_are_told_apart_in_a_list() -> None:
    assert not [one for names in (METRIC_NAMES, PART_NAMES, SHORT_NAMES) for one in names.values() if "," in one]
