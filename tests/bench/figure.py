"""A measured figure, and how it compares with the same figure of another day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.timing import repeat

SCALES = {"us": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`: a time where small is good, or so many a second. `spread` is relative, of its repeats."""

    name: str
    value: float
    unit: str
    spread: float = 0.0

    @property
    def rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    def speed_against(self, before: float) -> float:
        """How many times as fast as `before`: above 1 is better, whatever the unit."""
        return self.value / before if self.rate else before / self.value


def timed(name: str, unit: str, call: Callable[[], object], budget: float) -> Figure:
    """What a call takes, in us, ms or s: the lower quartile of its repeats within about `budget` seconds."""
    timing = repeat(call, budget, least=5)
    return Figure(name, timing.typical * SCALES[unit], unit, timing.spread)


def of_runs(name: str, unit: str, values: list[float]) -> Figure:
    """The median of repeated runs, with the distance of the farthest ones as the spread."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return Figure(name, middle, unit, (ordered[-1] - ordered[0]) / middle)
