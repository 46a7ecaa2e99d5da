"""Student's t distribution for whole degrees of freedom, in closed form (Abramowitz and Stegun 26.7.3 and 26.7.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, cos, inf, isinf, nan, pi, sin, sqrt
from statistics import fmean, stdev


def two_sided(t: float, freedom: int) -> float:
    """The probability of a value at least as far from 0 as `t`. Raises ValueError for less than one degree."""
    if freedom < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {freedom}")
    if isinf(t):
        return 0.0
    angle = atan(abs(t) / sqrt(freedom))
    squared = cos(angle) ** 2
    odd = freedom % 2 == 1
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= squared * (k + 1) / (k + 2)
    inside = 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total
    return min(1.0, max(0.0, 1.0 - inside))


@lru_cache(maxsize=1024)
def quantile(tail: float, freedom: int) -> float:
    """The value that is exceeded with probability `tail`, which is in (0, 0.5)."""
    if not 0 < tail < 0.5:
        raise ValueError(f"tail must be between 0 and 0.5, got {tail}")
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > 2 * tail:
        high *= 2
        if high == inf:
            return inf
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > 2 * tail else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of independent values with its standard error, which has so many degrees of freedom: none of a single
    value, which tells nothing but itself."""

    value: float
    error: float
    freedom: int

    def ends(self, tail: float = 0.025) -> tuple[float, float]:
        """The truth is beyond either with probability `tail`; NaN of a single value."""
        reach = quantile(tail, self.freedom) * self.error if self.freedom else nan
        return self.value - reach, self.value + reach

    @property
    def probability(self) -> float:
        """Two-sided, of a mean at least as far from 0 by chance alone; 1 of a single value."""
        if not self.freedom:
            return 1.0
        return two_sided(self.value / self.error, self.freedom) if self.error else float(self.value == 0)


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent values, of which there is at least one."""
    error = stdev(values) / sqrt(len(values)) if len(values) > 1 else nan
    return Mean(fmean(values), error, len(values) - 1)
