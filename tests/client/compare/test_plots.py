from __future__ import annotations

from xml.etree import ElementTree

import pytest

from client.compare.drift import drift
from client.compare.plots import Point, Series, lines, ticks
from tests.client.compare.factories import record


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
    points = (Point(0, 0, tip="a"), Point(50, 10, 5, 10, "half <way>"), Point(100, 0, tip="c"))
    svg = lines("t", "x", "y", [Series(0, points)])
    spots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in ElementTree.fromstring(svg).iter("circle")]
    assert spots[1][0] == pytest.approx((spots[0][0] + spots[2][0]) / 2)
    assert spots[1][1] == 24  # the top of the plot
    assert "half &lt;way&gt;" in svg
    assert "arrow" not in svg


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    svg = lines("t", "x", "y", [Series(0, (Point(1, 10, 5, 1000, "wide"),))])
    [arrow] = [p for p in ElementTree.fromstring(svg).iter("path") if p.attrib.get("class") == "arrow"]
    assert " 24.0l" in arrow.attrib["d"]


def test_an_axis_may_begin_near_the_least() -> None:
    svg = lines("t", "x", "y", [Series(0, (Point(1, 1.47, tip="a"), Point(2, 1.48, tip="b")))], zero=False)
    first, second = (float(c.attrib["cy"]) for c in ElementTree.fromstring(svg).iter("circle"))
    assert first - second > 150


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 10, 40])
def test_what_is_counted_has_an_axis_of_whole_numbers_to_its_last(count: int) -> None:
    svg = lines("t", "x", "y", [Series(0, (Point(count, 1, tip="a"),))], whole=True)
    below = [t for t in ElementTree.fromstring(svg).iter("text") if t.attrib.get("y") == "226"]
    assert int(below[0].text or "") == 0 and int(below[-1].text or "") >= count
    assert all(float(t.text or "").is_integer() for t in below)


def test_of_nothing_there_are_no_lines() -> None:
    assert lines("t", "x", "y", []) == lines("t", "x", "y", [Series(0, (Point(1, float("nan")),))]) == ""


def test_a_machine_that_slows_down_is_called_noisy() -> None:
    quiet = [[record(row, 0.1 + row / 1e4) for row in range(20)] for _ in range(4)]
    assert not drift(quiet).noisy
    slowing = [[record(row, (0.1 + row / 1e4) * (1 + 0.1 * n)) for row in range(20)] for n in range(4)]
    told = drift(slowing)
    assert told.noisy
    assert told.spread == pytest.approx(1.25, abs=0.03)
    assert not drift([]).noisy
