from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from client.compare.judge.findings import conclude
from client.compare.judge.paired import METRICS
from client.compare.judge.whole import OF_A_RUN
from client.compare.judge.words import METRIC_NAMES
from client.compare.measure.quality import Band, Quality
from client.compare.measure.results import Results
from client.compare.plan.schedule import Cell
from client.compare.tell.figure import Figure
from client.compare.tell.figures import figures
from client.compare.tell.tables import models_grid
from client.load.arrivals import Poisson
from tests.client.compare.factories import results
from tests.client.compare.test_brief import peaking, quiet


def several_loads(names: tuple[str, ...] = ("plain", "a name", "another name")) -> Results:
    """The same records under two loads."""
    made = results(tuple(0.1 + i / 10 for i in range(len(names))))
    architectures = tuple(
        replace(one, name=name) for one, name in zip(made.experiment.architectures, names, strict=True)
    )
    made.experiment = replace(made.experiment, architectures=architectures, levels=(Poisson(2.0), Poisson(4.0)))
    made.measured += [replace(m, cell=Cell(m.cell.repeat, 1, m.cell.architecture)) for m in made.measured]
    return made


def called(title: str, made: Results) -> Figure:
    [found] = [one for one in figures(conclude(made)) if one.title == title]
    return found


def texts(one: Figure) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(one.svg).iter("text")]


def test_every_figure_has_axes_units_and_a_sentence() -> None:
    drawn = figures(conclude(results((0.1, 0.2, 0.1))))
    titles = [one.title for one in drawn]
    for said in ("At 2/s, Poisson", "Throughput and time to first token", "Cache", "Operations", "Routing"):
        assert said in titles
    for one in drawn:
        root = ElementTree.fromstring(one.svg)
        assert any(text.attrib.get("class") == "name" and text.text for text in root.iter("text")), one.title
        assert one.sentence.endswith(".")


def test_ratios_stand_by_load_and_by_time_and_rows_have_the_architecture_alone() -> None:
    made = several_loads()
    for load in ("2/s", "4/s"):
        one = called(f"At {load}, Poisson", made)
        assert one.part == "Times against plain"
        told = texts(one)
        metrics = [METRIC_NAMES[metric] for metric in (*METRICS, *OF_A_RUN) if metric != "throughput"]
        assert [text for text in told if text in metrics] == metrics
        assert told[1:6] == ["a name", "2.00", "another name", "3.00", "time per output token"]


def test_forests_of_several_loads_have_the_same_axis() -> None:
    made = several_loads()
    made.measured = [m for m in made.measured if m.cell.level == 0 or m.cell.architecture < 2]
    first, second = (called(f"At {load}, Poisson", made) for load in ("2/s", "4/s"))
    assert texts(first)[-4:] == texts(second)[-4:]


def test_every_load_has_its_rounds() -> None:
    made = several_loads()
    for load in ("2/s", "4/s"):
        assert called(f"Rounds at {load}, Poisson", made).svg.count('class="mark"') == 15


def test_throughput_has_the_median_and_the_95th_percentile() -> None:
    svg = called("Throughput and time to first token", several_loads()).svg
    assert svg.count('class="series light') == svg.count('class="series s') == 3
    assert "a name, 4/s, Poisson: 2.00 tokens/s, median 203 ms (" in svg
    assert "a name, 4/s, Poisson: 2.00 tokens/s, 95th percentile 206 ms" in svg


def test_a_distribution_tells_its_percentiles_and_is_no_trap_for_the_keyboard() -> None:
    svg = called("Time to first token, 4/s, Poisson", several_loads()).svg
    assert "another name, time to first token, 4/s, Poisson: 99% took at most 309 ms" in svg
    assert "tabindex" not in svg


def test_numbers_stand_beside_their_bars() -> None:
    made = several_loads()
    made.qualities = (Quality(1.467, 1000, 12), Quality(1.4793, 1000, 12), None)
    assert texts(called("Bits per byte", made))[:4] == ["plain", "1.4670", "a name", "1.4793"]
    assert texts(called("Cache", made))[1] == str(made.cards[0].cache_bytes_per_token)


def test_what_a_window_lets_go_of_makes_room_for_more_requests() -> None:
    """By what the requests held, whatever the cards say a token keeps as long as it is seen, and of traces too."""
    made = peaking(results(), 1 << 23, 1 << 21)
    made.experiment = replace(made.experiment, trace=Path("t.jsonl"))
    assert made.cards[0].cache_bytes_per_token == made.cards[1].cache_bytes_per_token
    assert texts(called("Concurrency", made))[:4] == ["arch0", "128", "arch1", "512"]
    assert "Concurrency" not in [one.title for one in figures(conclude(quiet(results())))]


def test_every_mark_of_an_architecture_is_known_by_its_place() -> None:
    made = several_loads()
    drawn = [ElementTree.fromstring(one.svg) for one in figures(conclude(made))]
    marks = [mark for root in drawn for mark in root.iter("g") if "data-tip" in mark.attrib]
    assert marks
    for root in drawn:
        known = {mark for owner in root.iter("g") if "data-series" in owner.attrib for mark in owner.iter("g")}
        assert {mark for mark in root.iter("g") if "data-tip" in mark.attrib} <= known


def test_quality_by_position_has_a_mark_and_a_row_for_each_stretch() -> None:
    made = results()
    bands = (Band(1, 128, 1.5), Band(128, 512, 2.5))
    made.qualities = (Quality(1.4, 1000, 12, bands), None)
    drawn = called("Quality by position", made)
    marks = list(ElementTree.fromstring(drawn.svg).iter("circle"))
    assert len(marks) == 2 and "arch0, tokens 128 to 512: 2.5000 bits per byte" in drawn.svg
    told = {row[0]: row[1:] for row in models_grid(conclude(made)).rows}
    assert told["bits per byte, tokens 128 to 512"] == ("2.5000", "–")
    assert told["bits per byte, held text"] == ("1.4000", "–")
