"""Intervals of percentiles over values that come in rounds, from order statistics. Pure.

Values of one round share what the machine did at that time, so they tell less than as many independent ones. How much
less shows in how far rounds disagree on the share of values below the percentile (Woodruff 1952); the interval is that
of so many independent values as would vary as much, fewer again by Student's t where the rounds do disagree. Its ends
are measured values; where there are too few beyond the percentile for an end, there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, inf, nan
from statistics import NormalDist

import numpy as np

from client.compare.judge.bootstrap import Floats, Interval
from client.compare.judge.student import quantile as student
from client.load.intervals import places

_MOST = 4000  # independent values that are worth telling apart
_LEVEL = 0.95


def percentile_interval(rounds: Sequence[Floats], q: float) -> Interval:
    """Around the q-quantile, q in (0, 1), of all rounds together. One round says nothing of how rounds differ."""
    values = np.sort(np.concatenate(rounds)) if rounds else np.array([])
    if not len(values):
        return Interval(nan, nan)
    if len(rounds) < 2:
        return Interval(-inf, inf)
    independent = _independent(rounds, float(np.quantile(values, q)), q, len(values))
    below, above = places(independent, q, _LEVEL)
    # From a place among so many to one among all, outwards.
    stretch = (len(values) + 1) / (independent + 1)
    low = max(0, floor((below + 1) * stretch) - 1)
    high = min(len(values) - 1, ceil((above + 1) * stretch) - 1)
    return Interval(
        float(values[low]) if below >= 0 else -inf,
        float(values[high]) if above < independent else inf,
    )


def _independent(rounds: Sequence[Floats], estimate: float, q: float, count: int) -> int:
    """How many independent values would tell as much."""
    shares = np.array([float((one <= estimate).mean()) for one in rounds])
    variance = float(shares.var(ddof=1)) / len(rounds)
    apart = variance * count / (q * (1 - q))
    if apart <= 1:
        return min(count, _MOST)
    tail = (1 - _LEVEL) / 2
    few = student(tail, len(rounds) - 1) / NormalDist().inv_cdf(1 - tail)
    return max(1, min(_MOST, int(count / apart / few**2)))
