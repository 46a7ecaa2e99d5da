"""Intervals of percentiles from order statistics: no assumption but that the values are independent. Pure.

How many of n values lie below the true q-quantile is binomial (n, q), whatever the distribution; so the values between
two places of the sorted list hold the quantile with a probability that can be counted. Where there are too few values
for a bound (the 99th percentile of 100 requests has no upper one) the end is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import exp, inf, lgamma, log, nan


def quantile_interval(values: Sequence[float], q: float, level: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) around the q-quantile, q in (0, 1); NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return nan, nan
    below, above = places(len(ordered), q, level)
    return (ordered[below] if below >= 0 else -inf), (ordered[above] if above < len(ordered) else inf)


@lru_cache(maxsize=256)
def places(count: int, q: float, level: float) -> tuple[int, int]:
    """Indices into the sorted values, -1 and `count` where none is far enough out."""
    tail = (1 - level) / 2
    below, above, total = -1, count, 0.0
    for k in range(count + 1):
        # total: probability that fewer than k values lie below the quantile.
        if total <= tail:
            below = k - 1
        if total >= 1 - tail:
            above = k - 1
            break
        total += _binomial(k, count, q)
    return below, above


def _binomial(k: int, count: int, q: float) -> float:
    ways = lgamma(count + 1) - lgamma(k + 1) - lgamma(count - k + 1)
    return exp(ways + k * log(q) + (count - k) * log(1 - q))
