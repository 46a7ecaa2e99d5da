from __future__ import annotations

from math import inf, log, nan
from xml.etree import ElementTree

import pytest

from client.compare.tell.rows import Group, Row, bars, dots, forest, reach

LONG = "grouped-query attention with 8 key-value heads and a window of 1024 tokens, small"


def one(*rows: Row) -> list[Group]:
    return [Group("", rows)]


def spots(svg: str) -> list[float]:
    return [float(c.attrib["cx"]) for c in ElementTree.fromstring(svg).iter("circle")]


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("text")]


def test_a_forest_has_its_line_at_one() -> None:
    svg = forest("t", "x", one(Row("a", 0, 1.0, 0.9, 1.2), Row("b", 1, 2.0, 1.5, 2.5)))
    line = next(p for p in ElementTree.fromstring(svg).iter("path") if p.attrib["class"] == "one")
    places = spots(svg)
    assert line.attrib["d"].startswith(f"M{places[0]:.1f} ")
    assert places[1] > places[0]
    assert "arrow" not in svg


@pytest.mark.parametrize(
    ("low", "high", "arrows"), [(0.9, inf, 1), (0.0, 1.2, 1), (0.0, inf, 2), (0.001, 1000, 2), (nan, nan, 0)]
)
def test_a_forest_tells_where_an_interval_goes_on(low: float, high: float, arrows: int) -> None:
    assert forest("t", "x", one(Row("a", 0, 1.1, low, high))).count('class="arrow"') == arrows


def test_wide_intervals_do_not_shrink_the_ratios_to_one_place() -> None:
    left, right = spots(forest("t", "x", one(Row("a", 0, 0.5, 1e-9, 1e9), Row("b", 1, 2.0, 1.9, 2.1))))
    assert right - left > 100


def test_a_reach_takes_in_every_interval_of_fair_size() -> None:
    assert reach([Row("a", 0, 1.5, 1.2, 2.0), Row("b", 0, 0.9, 0.8, 1.0)]) == pytest.approx(1.05 * log(2.0))


def test_what_was_not_shown_is_hollow() -> None:
    svg = forest("t", "x", one(Row("a", 0, 1.1, sure=False), Row("b", 1, 2.0)))
    assert [c.attrib.get("class") for c in ElementTree.fromstring(svg).iter("circle")] == ["hollow", None]


def test_rows_stand_under_the_headings_of_their_groups() -> None:
    groups = [Group("2/s", (Row("a", 0, 1.0, told="1.00"),)), Group("none", ()), Group("4/s", (Row("a", 0, 2.0),))]
    assert texts(bars("t", "things", groups))[:4] == ["2/s", "a", "1.00", "4/s"]
    assert "none" not in texts(bars("t", "things", groups))


def test_a_long_name_is_cut_in_its_middle_and_its_number_is_not() -> None:
    name, number, *_ = texts(bars("t", "x", one(Row(LONG, 0, 1.0, told="1.0000"))))
    begin, end = name.split("…")
    assert LONG.startswith(begin) and LONG.endswith(end) and len(name) > 40
    assert number == "1.0000"


def test_dots_show_what_bars_would_not() -> None:
    left, right = spots(dots("t", "x", one(Row("a", 0, 1.467), Row("b", 1, 1.4793))))
    assert right - left > 80
    close, by = spots(dots("t", "x", one(Row("a", 0, 1.467), Row("b", 1, 1.4671))))
    assert by - close < 5  # and do not make much of nothing


def test_of_nothing_there_is_no_plot() -> None:
    assert forest("t", "x", one(Row("a", 0, nan))) == bars("t", "x", one(Row("a", 0, 0.0))) == dots("t", "x", []) == ""
