"""Plots as SVG text: lines with intervals, a forest of ratios, bars. Pure; colours and hovering are the page's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, exp, floor, isfinite, log, log10

from client.units import plain

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 44
COLOURS = 8  # the page has so many, and begins again after them


@dataclass(frozen=True, slots=True)
class Point:
    """`low` and `high` are the ends of y's interval; infinite ends are not drawn."""

    x: float
    y: float
    low: float = float("nan")
    high: float = float("nan")
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """`colour` is the architecture's place in the experiment, so that it looks the same in every plot."""

    name: str
    colour: int
    points: tuple[Point, ...]
    marks: bool = True


@dataclass(frozen=True, slots=True)
class Ratio:
    """One row of a forest, or a bar."""

    label: str
    colour: int
    value: float
    low: float = float("nan")
    high: float = float("nan")
    tip: str = ""


def ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Round numbers that cover [low, high], from the last at or below low to the first at or above high."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / wanted
    size = 10.0 ** floor(log10(raw))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= raw * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(round(step * i, 12) for i in range(first, last + 1))


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def lines(title: str, x_label: str, y_label: str, series: Sequence[Series], *, top: float | None = None) -> str:
    """Both axes from 0; `top` is the end of the upper one where the data does not decide it."""
    points = [p for one in series for p in one.points if isfinite(p.x) and isfinite(p.y)]
    if not points:
        return ""
    tops = [p.y for p in points] + [p.high for p in points if isfinite(p.high) and p.high < 3 * p.y]
    across, up = ticks(0, max(p.x for p in points)), ticks(0, top or max(tops))
    x = _Scale(across[0], across[-1], _LEFT, WIDTH - _RIGHT)
    y = _Scale(up[0], up[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x, y, across, up, x_label, y_label)]
    parts += [_series(one, x, y) for one in series]
    return _svg(title, HEIGHT, "".join(parts))


def _axes(x: _Scale, y: _Scale, across: Sequence[float], up: Sequence[float], x_label: str, y_label: str) -> str:
    floor_, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    grid = "".join(f'<path class="grid" d="M{_LEFT} {y(t):.1f}H{right}"/>' for t in up)
    left = "".join(f'<text x="{_LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{_number(t)}</text>' for t in up)
    below = "".join(f'<text x="{x(t):.1f}" y="{floor_ + 18}" text-anchor="middle">{_number(t)}</text>' for t in across)
    turned = f"translate(13 {(_TOP + floor_) / 2}) rotate(-90)"
    return (
        f'{grid}<path class="axis" d="M{_LEFT} {floor_}H{right}"/>{left}{below}'
        f'<text class="name" x="{(_LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="name" transform="{turned}" text-anchor="middle">{escape(y_label)}</text>'
    )


def _series(one: Series, x: _Scale, y: _Scale) -> str:
    drawn = [p for p in one.points if isfinite(p.x) and isfinite(p.y)]
    if not drawn:
        return ""
    path = " ".join(f"{'L' if i else 'M'}{x(p.x):.1f} {y(p.y):.1f}" for i, p in enumerate(drawn))
    marks = "".join(_mark(p, x, y) for p in drawn) if one.marks else ""
    return f'<g class="series s{one.colour % COLOURS}" data-series="{escape(one.name)}"><path d="{path}"/>{marks}</g>'


def _mark(p: Point, x: _Scale, y: _Scale) -> str:
    whisker = ""
    if isfinite(p.low) and isfinite(p.high):
        ends = (y(max(p.low, y.low)), y(min(p.high, y.high)))
        whisker = f'<path class="whisker" d="M{x(p.x):.1f} {ends[0]:.1f}V{ends[1]:.1f}"/>'
    spot = f'<circle cx="{x(p.x):.1f}" cy="{y(p.y):.1f}" r="4.5"/>'
    return f'<g class="mark" tabindex="0" data-tip="{escape(p.tip)}">{whisker}{spot}<title>{escape(p.tip)}</title></g>'


_ROW = 26
_LABELS = 262
_ROUND = (1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


def forest(title: str, x_label: str, rows: Sequence[Ratio]) -> str:
    """Ratios on a logarithmic axis with a line at 1; an interval that leaves the line out is a difference."""
    told = [row for row in rows if isfinite(row.value)]
    if not told:
        return ""
    ends = [v for row in told for v in (row.value, row.low, row.high) if isfinite(v) and 0.05 < v < 20]
    reach = max(1.05, *(max(v, 1 / v) for v in ends)) * 1.05
    x = _Scale(-log(reach), log(reach), _LABELS, WIDTH - _RIGHT)
    bottom = 10 + _ROW * len(told)
    parts = [f'<path class="one" d="M{x(0):.1f} 6V{bottom}"/>']
    parts += [_ratio(row, x, 10 + _ROW * (i + 0.5)) for i, row in enumerate(told)]
    round_ = max((n for n in _ROUND if n <= reach**0.9), default=_ROUND[0])
    marks = (1 / round_, 1.0, round_)
    parts += [f'<text x="{x(log(m)):.1f}" y="{bottom + 16}" text-anchor="middle">{plain(m)}</text>' for m in marks]
    name = f'<text class="name" x="{x(0):.1f}" y="{bottom + 34}" text-anchor="middle">{escape(x_label)}</text>'
    return _svg(title, bottom + 42, "".join(parts) + name)


def _ratio(row: Ratio, x: _Scale, y: float) -> str:
    low, high = (x(max(x.low, min(x.high, log(v)))) if v > 0 and v == v else x(log(row.value)) for v in _ends(row))
    value = x(max(x.low, min(x.high, log(row.value))))
    return (
        f'<g class="mark s{row.colour % COLOURS}" tabindex="0" data-tip="{escape(row.tip)}">'
        f'<text x="{_LABELS - 10}" y="{y + 4}" text-anchor="end">{escape(_short(row.label))}</text>'
        f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}"/><circle cx="{value:.1f}" cy="{y}" r="5"/>'
        f"<title>{escape(row.tip)}</title></g>"
    )


def _ends(row: Ratio) -> tuple[float, float]:
    return (row.low, min(row.high, exp(700)))


def bars(title: str, x_label: str, rows: Sequence[Ratio]) -> str:
    """Horizontal bars from 0."""
    told = [row for row in rows if isfinite(row.value)]
    if not told or max(row.value for row in told) <= 0:
        return ""
    across = ticks(0, max(row.value for row in told), 4)
    x = _Scale(0, across[-1], _LABELS, WIDTH - _RIGHT)
    bottom = 10 + _ROW * len(told)
    grid = "".join(f'<path class="grid" d="M{x(t):.1f} 6V{bottom}"/>' for t in across)
    text = "".join(f'<text x="{x(t):.1f}" y="{bottom + 16}" text-anchor="middle">{_number(t)}</text>' for t in across)
    drawn = "".join(_bar(row, x, 10 + _ROW * (i + 0.5)) for i, row in enumerate(told))
    middle = (_LABELS + WIDTH - _RIGHT) / 2
    name = f'<text class="name" x="{middle}" y="{bottom + 34}" text-anchor="middle">{escape(x_label)}</text>'
    return _svg(title, bottom + 42, grid + drawn + text + name)


def _bar(row: Ratio, x: _Scale, y: float) -> str:
    width = max(1.0, x(row.value) - x.start)
    return (
        f'<g class="mark s{row.colour % COLOURS}" tabindex="0" data-tip="{escape(row.tip)}">'
        f'<text x="{_LABELS - 10}" y="{y + 4}" text-anchor="end">{escape(_short(row.label))}</text>'
        f'<rect x="{x.start}" y="{y - 8}" width="{width:.1f}" height="16" rx="2"/><title>{escape(row.tip)}</title></g>'
    )


def _short(label: str) -> str:
    return label if len(label) <= 40 else label[:39] + "…"


def _number(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def _svg(title: str, height: float, body: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{body}</svg>'
