"""Lines with intervals, as SVG text. Pure; colours and hovering are the page's.

Every plot is as wide as a phone, and a wide page sets several side by side: text is the same size on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH = 360
COLOURS = 8  # the page has so many, and begins again after them
_HEIGHT = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 16, 24, 40
_SINGLE = 15  # so many whole numbers have room for a label each
_DECADES = 4  # that a logarithmic axis reaches down from its end
_REACH = 3  # an interval that ends further up than so many times its value does not stretch the axis


@dataclass(frozen=True, slots=True)
class Point:
    """`low` and `high` are the ends of y's interval, `left` and `right` those of x's; infinite ends are not drawn.
    Without a tip it is no mark of its own, only a bend of the line."""

    x: float
    y: float
    low: float = float("nan")
    high: float = float("nan")
    tip: str = ""
    left: float = float("nan")
    right: float = float("nan")


@dataclass(frozen=True, slots=True)
class Series:
    """`colour` is the architecture's place in the experiment, so that it looks the same in every plot. `kind` is ""
    (large marks), "light" (a second line of the same architecture) or "dense" (many marks, small ones)."""

    colour: int
    points: tuple[Point, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to places on the paper. On a logarithmic one every value is above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def held(self, value: float) -> float:
        """The place of the value, or of the end of the axis that it lies beyond."""
        return self(max(self.low, min(self.high, value)))


def ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Round numbers that cover [low, high], from the last at or below low to the first at or above high."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / wanted
    size = 10.0 ** floor(log10(raw))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= raw * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(round(step * i, 12) for i in range(first, last + 1))


def counts(last: int) -> tuple[int, ...]:
    """1 to `last`: each where there is room for it, else 1 and round numbers."""
    if last <= _SINGLE:
        return tuple(range(1, last + 1))
    step = next(n * 10**k for k in range(10) for n in (5, 10, 20) if n * 10**k * 10 >= last)
    return (1, *range(step, last + 1, step))


def decades(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times powers of ten that cover [low, high], both above 0: two at least."""
    every = [n * 10.0**k for k in range(floor(log10(low)) - 1, ceil(log10(high)) + 1) for n in (1, 2, 5)]
    first = max(i for i, one in enumerate(every) if one <= low * (1 + 1e-9))
    last = next(i for i, one in enumerate(every) if one >= high * (1 - 1e-9) and i > first)
    return tuple(every[first : last + 1])


def lines(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    top: float | None = None,
    zero: bool = True,
    whole: bool = False,
    log: bool = False,
) -> str:
    """x from 0; y from 0 too unless `zero` is off. `top` is y's end where the data does not decide it; `whole` is for x
    that are counted from 1 and have nothing between them; `log` is for x over several powers of ten: those too small
    for its axis stand at its beginning."""
    points = [p for one in series for p in one.points if isfinite(p.x) and isfinite(p.y)]
    if not points:
        return ""
    tops = [p.y for p in points] + [p.high for p in points if isfinite(p.high) and p.high < _REACH * p.y]
    least = 0.0 if zero else min(low for p in points for low in (p.y, p.low) if isfinite(low))
    up = ticks(least, top or max(tops))
    x, across = _along([end for p in points for end in (p.x, p.right) if isfinite(end)], whole, log)
    y = Scale(up[0], up[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x, y, across, up, x_label, y_label)]
    parts += [_series(one, x, y) for one in series]
    return svg(title, _HEIGHT, "".join(parts))


def _along(values: Sequence[float], whole: bool, log: bool) -> tuple[Scale, Sequence[float]]:
    """The scale of x and its marks."""
    most, ends = max(values), (_LEFT, WIDTH - _RIGHT)
    if whole:
        return Scale(0.5, most + 0.5, *ends), counts(round(most))
    if not log or most <= 0:
        marks = ticks(0, most, 4)
        return Scale(marks[0], marks[-1], *ends), marks
    least = min(value for value in values if value >= most / 10**_DECADES)
    marks = decades(least, most)
    return Scale(marks[0], marks[-1], *ends, log=True), marks if len(marks) <= 7 else _sparse(marks)


def _sparse(marks: Sequence[float]) -> tuple[float, ...]:
    """The powers of ten, and an end that is no neighbour of one."""
    alone = {(0, "2"), (len(marks) - 1, "5")}
    return tuple(mark for i, mark in enumerate(marks) if (first := f"{mark:e}"[0]) == "1" or (i, first) in alone)


def _axes(x: Scale, y: Scale, across: Sequence[float], up: Sequence[float], x_label: str, y_label: str) -> str:
    floor_, right = _HEIGHT - _BOTTOM, WIDTH - _RIGHT
    grid = "".join(f'<path class="grid" d="M{_LEFT} {y(t):.1f}H{right}"/>' for t in up)
    left = "".join(f'<text x="{_LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{number(t)}</text>' for t in up)
    below = "".join(f'<text x="{x(t):.1f}" y="{floor_ + 16}" text-anchor="middle">{number(t)}</text>' for t in across)
    return (
        f'{grid}<path class="axis" d="M{_LEFT} {floor_}H{right}"/>{left}{below}'
        f'<text class="name" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="name" x="0" y="11">{escape(y_label)}</text>'
    )


def _series(one: Series, x: Scale, y: Scale) -> str:
    drawn = [p for p in one.points if isfinite(p.x) and isfinite(p.y)]
    if not drawn:
        return ""
    path = " ".join(f"{'L' if i else 'M'}{x.held(p.x):.1f} {y(p.y):.1f}" for i, p in enumerate(drawn))
    marks = "".join(_mark(p, one.kind, x, y) for p in drawn if p.tip)
    kind = f" {one.kind}" if one.kind else ""
    return f'<g class="series{kind} s{one.colour % COLOURS}" data-series="{one.colour}"><path d="{path}"/>{marks}</g>'


def _mark(p: Point, kind: str, x: Scale, y: Scale) -> str:
    whisker, across = "", x.held(p.x)
    if isfinite(p.low) and isfinite(p.high):
        whisker = f'<path class="whisker" d="M{across:.1f} {y.held(p.low):.1f}V{y.held(p.high):.1f}"/>'
        whisker += arrow(across, y.end, "up") if p.high > y.high else ""
    if isfinite(p.left) and isfinite(p.right):
        whisker += f'<path class="whisker" d="M{x.held(p.left):.1f} {y(p.y):.1f}H{x.held(p.right):.1f}"/>'
    size = {"": 4.5, "light": 3.5}.get(kind, 2.5)
    spot = f'<circle cx="{across:.1f}" cy="{y(p.y):.1f}" r="{size}"/>'
    # Dense marks are for the pointer: at a keyboard they would be hundreds of stops, and tables have their numbers.
    stop = "" if kind == "dense" else ' tabindex="0"'
    return f'<g class="mark"{stop} data-tip="{escape(p.tip)}">{whisker}{spot}<title>{escape(p.tip)}</title></g>'


_ARROWS = {"up": "l-4 7h8z", "left": "l7 -4v8z", "right": "l-7 -4v8z"}


def arrow(x: float, y: float, way: str) -> str:
    """An arrow with its point at (x, y): what it ends goes on beyond the axis."""
    return f'<path class="arrow" d="M{x:.1f} {y:.1f}{_ARROWS[way]}"/>'


def number(value: float) -> str:
    """A number as axes have it: 25000 → "25k"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def svg(title: str, height: float, body: str) -> str:
    """The picture of that height, called `title` for those who do not see it."""
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{body}</svg>'
