"""Plots of one row an architecture, in groups with headings, as SVG text: a forest of ratios, bars, dots. Pure.

A row's name stands above its mark, its number at the end of the same line, so that neither takes width from the mark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import copysign, isfinite, log

from client.compare.tell.plots import COLOURS, WIDTH, Scale, arrow, number, svg, ticks
from client.units import plain

_START, _END = 6, WIDTH - 6
_ROW, _HEAD, _FOOT = 34, 26, 42
_EDGE = 20
_SWATCH, _LINE = 15, 17  # of a key
_LETTER = 6.8  # units across, of a wide typeface
_ROUND = (1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
_LEAST_SPAN = 0.02  # of the value, across an axis of dots: smaller differences are not blown up to its whole width


@dataclass(frozen=True, slots=True)
class Row:
    """`colour` is the architecture's place in the experiment; `told` is the number as it is printed. `sure` is off for
    a difference that was not shown."""

    label: str
    colour: int
    value: float
    low: float = float("nan")
    high: float = float("nan")
    told: str = ""
    tip: str = ""
    sure: bool = True
    parts: tuple[float, ...] = ()  # that add up to the value, above and below 0


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under a heading; "" is none."""

    heading: str
    rows: tuple[Row, ...]


def reach(rows: Sequence[Row]) -> float:
    """How far to either side a forest of these rows goes, as a logarithm: as far as every interval, but not so far that
    the ratios themselves would shrink to one place."""
    values = [abs(log(row.value)) for row in rows if _positive(row.value)]
    ends = [abs(log(end)) for row in rows for end in (row.low, row.high) if _positive(end)]
    return 1.05 * max(0.05, min(max(values + ends, default=0.0), 2.5 * max([*values, 0.2])))


def _positive(value: float) -> bool:
    return isfinite(value) and value > 0


def forest(title: str, x_label: str, groups: Sequence[Group], far: float = 0.0) -> str:
    """Ratios on a logarithmic axis with a line at 1; an interval that leaves the line out is a difference, and one
    that goes on beyond the axis ends in an arrow. `far` is the axis' reach, for forests to be held side by side."""
    told = _told(groups, _positive)
    far = far or reach([row for group in told for row in group.rows])
    x = Scale(-far, far, _START, _END)
    round_ = max((n for n in _ROUND if log(n) <= 0.95 * far), default=_ROUND[0])
    marks = [(log(m), plain(m)) for m in (1 / round_, 1.0, round_)]
    return _stacked(title, x_label, told, x, marks, _interval)


def bars(title: str, x_label: str, groups: Sequence[Group]) -> str:
    """Horizontal bars from 0."""
    told = _told(groups, isfinite)
    most = max((row.value for group in told for row in group.rows), default=0.0)
    if most <= 0:
        return ""
    across = ticks(0, most, 4)
    x = Scale(0, across[-1], _START, _END)
    return _stacked(title, x_label, told, x, [(t, number(t)) for t in across], _bar)


def made_of(title: str, x_label: str, groups: Sequence[Group], key: Sequence[str]) -> str:
    """Each row's parts in a bar to either side of 0, those of one sign one after another, with a mark at their sum.
    `key` names the parts."""
    told = [Group(group.heading, tuple(row for row in group.rows if any(row.parts))) for group in groups]
    told = [group for group in told if group.rows]
    ends = [sum(n for n in row.parts if n * sign > 0) for group in told for row in group.rows for sign in (-1, 1)]
    across = ticks(min(ends, default=0.0), max(ends, default=0.0), 4)
    x = Scale(across[0], across[-1], _START, _END)
    return _stacked(title, x_label, told, x, [(t, number(t)) for t in across], _parts, key)


def dots(title: str, x_label: str, groups: Sequence[Group]) -> str:
    """Marks on an axis that begins near the least of them: for values whose differences are small beside them. The axis
    holds every interval whole."""
    told = _told(groups, isfinite)
    rows = [row for group in told for row in group.rows]
    values = [value for row in rows for value in (row.value, row.low, row.high) if isfinite(value)]
    if not values:
        return ""
    spare = max(0.0, _LEAST_SPAN * max(map(abs, values)) - (max(values) - min(values))) / 2
    across = ticks(min(values) - spare, max(values) + spare, 4)
    x = Scale(across[0], across[-1], _START, _END)
    return _stacked(title, x_label, told, x, [(t, number(t)) for t in across], _dot)


def _told(groups: Sequence[Group], fit: Callable[[float], bool]) -> list[Group]:
    """Without the rows that have nothing to show, and without groups of none."""
    kept = (Group(group.heading, tuple(row for row in group.rows if fit(row.value))) for group in groups)
    return [group for group in kept if group.rows]


_Draw = Callable[[Row, Scale, float], str]


def _stacked(
    title: str,
    x_label: str,
    groups: Sequence[Group],
    x: Scale,
    marks: Sequence[tuple[float, str]],
    draw: _Draw,
    key: Sequence[str] = (),
) -> str:
    """Groups one under another, the axis at the bottom. `marks` are the axis' values and what they are called; `key` is
    told above."""
    if not groups:
        return ""
    head, y = _key(key)
    parts = [head]
    for group in groups:
        if group.heading:
            parts.append(f'<text class="head" x="0" y="{y + 17:g}">{escape(_fitted(group.heading, WIDTH))}</text>')
            y += _HEAD
        for row in group.rows:
            parts.append(_row(row, x, y, marks, draw))
            y += _ROW
    parts += [_tick(x(value), y + 14, name) for value, name in marks]
    parts.append(f'<text class="name" x="{WIDTH / 2:g}" y="{y + 32:g}" text-anchor="middle">{escape(x_label)}</text>')
    return svg(title, y + _FOOT, "".join(parts))


def _key(names: Sequence[str]) -> tuple[str, float]:
    """A swatch and a name each, in as many lines as they need; and how far down they reach."""
    told, x, y = [], 0.0, 0.0
    for i, name in enumerate(names):
        width = _SWATCH + _LETTER * len(name) + 10
        if x and x + width > WIDTH:
            x, y = 0.0, y + _LINE
        told.append(f'<rect class="p{i}" x="{x:.1f}" y="{y + 2:g}" width="10" height="10" rx="2"/>')
        told.append(f'<text x="{x + _SWATCH:.1f}" y="{y + 11:g}">{escape(name)}</text>')
        x += width
    return "".join(told), y + _LINE + 6 if names else 0.0


def _tick(x: float, y: float, name: str) -> str:
    """The name of a mark, under its place on the axis, and whole where that is at an edge of the paper."""
    at, anchor = (0.0, "start") if x < _EDGE else (WIDTH, "end") if x > WIDTH - _EDGE else (x, "middle")
    return f'<text x="{at:.1f}" y="{y:g}" text-anchor="{anchor}">{name}</text>'


def _row(row: Row, x: Scale, y: float, marks: Sequence[tuple[float, str]], draw: _Draw) -> str:
    grid = "".join(f'<path class="grid" d="M{x(value):.1f} {y + 16:g}v16"/>' for value, _ in marks)
    name = _fitted(row.label, WIDTH - _LETTER * (len(row.told) + 1))
    return (
        f'<g class="row mark s{row.colour % COLOURS}" data-series="{row.colour}" tabindex="0" '
        f'data-tip="{escape(row.tip)}"><rect class="hit" y="{y:g}" width="{WIDTH}" height="{_ROW}"/>{grid}'
        f'<text x="0" y="{y + 12:g}">{escape(name)}</text>'
        f'<text class="told" x="{WIDTH}" y="{y + 12:g}" text-anchor="end">{escape(row.told)}</text>'
        f"{draw(row, x, y + 24)}<title>{escape(row.tip)}</title></g>"
    )


def _interval(row: Row, x: Scale, y: float) -> str:
    low = log(row.low) if row.low > 0 else -float("inf") if row.low == row.low else log(row.value)
    high = log(row.value) if row.high != row.high else log(row.high) if isfinite(row.high) else float("inf")
    line = f'<path class="whisker" d="M{x.held(low):.1f} {y:g}H{x.held(high):.1f}"/>'
    ends = (arrow(x.start, y, "left") if low < x.low else "") + (arrow(x.end, y, "right") if high > x.high else "")
    return f'<path class="one" d="M{x(0):.1f} {y - 8:g}v16"/>{line}{ends}{_spot(row, x.held(log(row.value)), y)}'


def _bar(row: Row, x: Scale, y: float) -> str:
    width = max(1.0, x(row.value) - x.start)
    return f'<rect x="{x.start:g}" y="{y - 6:g}" width="{width:.1f}" height="12" rx="2"/>'


def _parts(row: Row, x: Scale, y: float) -> str:
    ends, drawn = {-1.0: 0.0, 1.0: 0.0}, []
    for i, part in enumerate(row.parts):
        sign = copysign(1.0, part)
        left, right = sorted((x(ends[sign]), x(ends[sign] + part)))
        ends[sign] += part
        drawn.append(f'<rect class="p{i}" x="{left:.1f}" y="{y - 6:g}" width="{right - left:.1f}" height="12"/>')
    zero = f'<path class="one" d="M{x(0):.1f} {y - 8:g}v16"/>'
    return f'{"".join(drawn)}{zero}<path class="sum" d="M{x(row.value):.1f} {y - 9:g}v18"/>'


def _dot(row: Row, x: Scale, y: float) -> str:
    line = f'<path class="grid" d="M{x.start:g} {y:g}H{x.end:g}"/>'
    if isfinite(row.low) and isfinite(row.high):
        line += f'<path class="whisker" d="M{x(row.low):.1f} {y:g}H{x(row.high):.1f}"/>'
    return line + _spot(row, x(row.value), y)


def _spot(row: Row, x: float, y: float) -> str:
    hollow = "" if row.sure else ' class="hollow"'
    return f'<circle{hollow} cx="{x:.1f}" cy="{y:g}" r="5"/>'


def _fitted(name: str, room: float) -> str:
    """Cut in the middle where it is too long: names of one family often differ at the end."""
    letters = int(room / _LETTER)
    if len(name) <= letters:
        return name
    tail = letters // 3
    return f"{name[: letters - tail - 1]}…{name[len(name) - tail :]}"
