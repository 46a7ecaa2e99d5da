from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from client.compare.judge.drift import drift
from client.compare.judge.findings import conclude
from client.compare.tell.plots import Point, Series, decades, lines, ticks
from client.compare.tell.times import distributions
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
    told = [int(t.text or "") for t in below]
    assert told == (list(range(1, count + 1)) if count < 40 else [1, 5, 10, 15, 20, 25, 30, 35, 40])


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(1, 100, (1, 2, 5, 10, 20, 50, 100)), (0.3, 4, (0.2, 0.5, 1, 2, 5)), (7, 7, (5, 10)), (10, 10, (10, 20))],
)
def test_powers_of_ten_cover(low: float, high: float, told: tuple[float, ...]) -> None:
    assert decades(low, high) == pytest.approx(told)


def test_on_a_logarithmic_axis_a_long_tail_leaves_room_for_the_rest() -> None:
    places = (0.0, 1.0, 10.0, 1000.0)  # the first has no logarithm: it stands at the beginning
    points = tuple(Point(x, 25.0 * i, tip="a") for i, x in enumerate(places))
    svg = lines("t", "x", "y", [Series(0, points, "dense")], top=100, log=True)
    spots = [float(c.attrib["cx"]) for c in ElementTree.fromstring(svg).iter("circle")]
    assert spots[0] == spots[1] and spots[2] - spots[1] == pytest.approx((spots[3] - spots[1]) / 3, abs=0.1)
    below = [t.text for t in ElementTree.fromstring(svg).iter("text") if t.attrib.get("y") == "226"]
    assert below == ["1", "10", "100", "1000"]
    ends = lines("t", "x", "y", [Series(0, (Point(3, 1, tip="a"), Point(400, 1, tip="a")))], log=True)
    below = [t.text for t in ElementTree.fromstring(ends).iter("text") if t.attrib.get("y") == "226"]
    assert below == ["2", "10", "100", "500"]
    assert lines("t", "x", "y", [Series(0, (Point(0, 1, tip="a"),))], log=True)


@pytest.mark.parametrize(("slowest", "log"), [(0.5, False), (5.0, True)])
def test_a_distribution_with_a_long_tail_is_drawn_on_a_logarithmic_axis(slowest: float, log: bool) -> None:
    made = results()
    made.measured = [
        replace(one, run=replace(one.run, records=(*one.run.records, record(4, slowest)))) for one in made.measured
    ]
    figure = distributions(conclude(made))[0]
    assert ("logarithmic" in figure.svg, "logarithmic" in figure.sentence) == (log, log)


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
