"""The stopwatch of every measurement: repeats a call within a bound; tells the best, the middle and the spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of every repeat, in ascending order."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The least disturbed repeat: for limits of a machine."""
        return self.seconds[0]

    @property
    def typical(self) -> float:
        """The lower quartile: what it takes when nobody else is at work, and not the luckiest moment."""
        return self.seconds[len(self.seconds) // 4]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the upper quartile lies above the lower one, relative to it: above 0.2 somebody else was at work."""
        return self.seconds[(3 * len(self.seconds)) // 4] / self.typical - 1


def beside(call: Callable[[], object], other: Callable[[], object], budget: float) -> float:
    """How long a call takes, as a multiple of another one at the same moment: what else the machine does slows both
    alike. Each time the call is made twice and the second counts, as it finds its own data in the caches and not the
    other one's. The median over about `budget` seconds."""
    ends = time.perf_counter() + budget
    ratios: list[float] = []
    while len(ratios) < 3 or time.perf_counter() < ends:
        began = time.perf_counter()
        other()
        lasted = time.perf_counter() - began
        call()
        began = time.perf_counter()
        call()
        ratios.append((time.perf_counter() - began) / lasted)
    return median(ratios)


def repeat(call: Callable[[], object], budget: float, least: int = 3, most: int = 200) -> Timing:
    """Time a call again and again for about `budget` seconds, `least` to `most` times, after one that does not count.

    The call that does not count is within the budget: a call as long as the budget is made 1 + `least` times.
    """
    ends = time.perf_counter() + budget
    call()
    seconds: list[float] = []
    while len(seconds) < least or (len(seconds) < most and time.perf_counter() < ends):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return Timing(tuple(sorted(seconds)))
