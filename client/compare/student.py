"""Student's t distribution for whole degrees of freedom, in closed form (Abramowitz and Stegun 26.7.3 and 26.7.4)."""

from __future__ import annotations

from collections.abc import Sequence
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


def around(values: Sequence[float], tail: float = 0.025) -> tuple[float, float, float]:
    """(low, mean, high) of independent values, the truth beyond either end with probability `tail`; the ends are NaN
    where there are fewer than two."""
    mean = fmean(values)
    if len(values) < 2:
        return nan, mean, nan
    reach = quantile(tail, len(values) - 1) * stdev(values) / sqrt(len(values))
    return mean - reach, mean, mean + reach
