"""Histograms as plain counts, and their bounds. A bucket may remember who fell into it last."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable

FIRST_TOKEN = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0),
)
INTER_TOKEN = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08),
    *(0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 15.0, 60.0),
)
WHOLE = (*(0.0005, 0.001, 0.0025, 0.005), *(0.01 * 2**i for i in range(13)), *(60.0, 120.0, 300.0, 600.0))
OVERHEAD = (*(0.00005, 0.0001, 0.0002, 0.0004), *FIRST_TOKEN)
SIZES = tuple(float(2**i) for i in range(14))
SHARES = tuple(i / 20 for i in range(1, 21))
IMBALANCES = (1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0)
MARGINS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)

Witness = tuple[dict[str, str], float, float]
"""What a request is found by, its value, and when that was, in seconds since the epoch."""


class Buckets:
    """A histogram: `counts` has one entry a bound and one above the last."""

    __slots__ = ("bounds", "counts", "sum", "witnesses")

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(sorted(bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self.witnesses: dict[int, Witness] = {}  # by bucket, the last that was named

    def observe(self, value: float, who: dict[str, str] | None = None) -> None:
        """Count a value; `who`: labels of whose it was, to be remembered."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.sum += value
        if who is not None:
            self.witnesses[index] = (who, value, time.time())

    def observe_all(self, values: Iterable[float]) -> None:
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            self.sum += value

    def name(self, value: float, who: dict[str, str]) -> None:
        """Remember whose value this was; it is counted elsewhere."""
        self.witnesses[bisect_left(self.bounds, value)] = (who, value, time.time())

    @property
    def count(self) -> int:
        return sum(self.counts)
