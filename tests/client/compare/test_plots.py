from __future__ import annotations

from xml.etree import ElementTree

import pytest

from client.compare.drift import drift
from client.compare.figures import figures
from client.compare.plots import Point, Ratio, Series, bars, forest, lines, ticks
from client.compare.quality import Band, Quality
from client.compare.results import conclude
from client.compare.tables import models_grid
from tests.client.compare.factories import record, results


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0, 100, (0, 20, 40, 60, 80, 100)),
        (0, 7.3, (0, 2, 4, 6, 8)),
        (0, 0.012, (0, 0.0025, 0.005, 0.0075, 0.01, 0.0125)),
        (5, 5, (5, 6, 7, 8, 9, 10)),
    ],
)
def test_ticks_are_round_and_cover(low: float, high: float, told: tuple[float, ...]) -> None:
    assert ticks(low, high) == pytest.approx(told)


def test_marks_lie_where_their_numbers_say() -> None:
    svg = lines("t", "x", "y", [Series("a", 0, (Point(0, 0), Point(50, 10, 5, 10, "half <way>"), Point(100, 0)))])
    root = ElementTree.fromstring(svg)
    spots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter("circle")]
    assert spots[1][0] == pytest.approx((spots[0][0] + spots[2][0]) / 2)
    assert spots[1][1] == 12  # the top of the plot
    assert "half &lt;way&gt;" in svg


def test_a_forest_has_its_line_at_one() -> None:
    root = ElementTree.fromstring(
        forest("t", "x", [Ratio("a", 0, 1.0, 0.9, 1.2), Ratio("b", 1, 2.0, 1.5, float("inf"))])
    )
    line = next(p for p in root.iter("path") if p.attrib["class"] == "one")
    spots = [float(c.attrib["cx"]) for c in root.iter("circle")]
    assert line.attrib["d"].startswith(f"M{spots[0]:.1f} ")
    assert spots[1] > spots[0]


def test_of_nothing_there_is_no_plot() -> None:
    nan = float("nan")
    assert (
        lines("t", "x", "y", []) == forest("t", "x", [Ratio("a", 0, nan)]) == bars("t", "x", [Ratio("a", 0, 0.0)]) == ""
    )


def test_quality_by_position_has_a_mark_and_a_row_for_each_stretch() -> None:
    made = results()
    bands = (Band(1, 128, 1.5), Band(128, 512, 2.5))
    made.qualities = (Quality(1.4, 1000, 12, bands), None)
    [drawn] = [one for one in figures(conclude(made)) if one.title == "Quality by position"]
    marks = list(ElementTree.fromstring(drawn.svg).iter("circle"))
    assert len(marks) == 2 and "arch0, tokens 128 to 512: 2.5000 bits per byte" in drawn.svg
    told = {row[0]: row[1:] for row in models_grid(made).rows}
    assert told["bits per byte, tokens 128 to 512"] == ("2.5000", "–")
    assert told["bits per byte, held text"] == ("1.4000", "–")


def test_every_figure_has_axes_units_and_a_sentence() -> None:
    drawn = figures(conclude(results((0.1, 0.2, 0.1))))
    titles = [one.title for one in drawn]
    for said in ("Times against arch0", "Throughput and time to first token", "Cache", "Operations", "Routing"):
        assert said in titles
    for one in drawn:
        root = ElementTree.fromstring(one.svg)
        assert any(text.attrib.get("class") == "name" and text.text for text in root.iter("text")), one.title
        assert one.sentence.endswith(".")


def test_a_machine_that_slows_down_is_called_noisy() -> None:
    quiet = [[record(row, 0.1 + row / 1e4) for row in range(20)] for _ in range(4)]
    assert not drift(quiet).noisy
    slowing = [[record(row, (0.1 + row / 1e4) * (1 + 0.1 * n)) for row in range(20)] for n in range(4)]
    told = drift(slowing)
    assert told.noisy
    assert told.spread == pytest.approx(1.25, abs=0.03)
    assert not drift([]).noisy
