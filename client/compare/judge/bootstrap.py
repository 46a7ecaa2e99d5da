"""Bootstrap intervals of a quantile over values that come in rounds. Pure and seeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from client.compare.judge.student import quantile as student

Floats = npt.NDArray[np.float64]

DRAWS = 2000
_VALUES_AT_ONCE = 1 << 20  # to bound the memory


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, both within; infinite where nothing bounds it, NaN where there was nothing to measure."""

    low: float
    high: float

    def without(self, value: float) -> bool:
        return value < self.low or value > self.high


def interval(
    rounds: Sequence[Floats], q: float = 0.5, level: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> tuple[Interval, float]:
    """The interval of the q-quantile over all rounds together, and its standard error.

    Redrawing n rounds shows only (n - 1) / n of their variance, and takes it as known where it is estimated; the
    percentile interval is widened about the estimate by what Student's interval of n values is wider than that. One
    round says nothing of how rounds differ: its interval has no ends.
    """
    count = len(rounds)
    if count < 2:
        return Interval(-inf, inf), inf
    estimate = float(np.quantile(np.concatenate(rounds), q))
    drawn = redrawn(rounds, q, seed, draws)
    tail = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(drawn, (tail, 1 - tail)))
    lost = sqrt(count / (count - 1))
    wider = lost * student(tail, count - 1) / NormalDist().inv_cdf(1 - tail)
    reach = Interval(
        min(estimate, estimate - wider * (estimate - low)), max(estimate, estimate + wider * (high - estimate))
    )
    return reach, lost * float(drawn.std())


def redrawn(rounds: Sequence[Floats], q: float, seed: int, draws: int) -> Floats:
    """Quantiles (draws,), each of as many rounds as there are, drawn anew, and of as many values within each."""
    rng = np.random.default_rng(seed)
    sizes = np.array([len(one) for one in rounds])
    table = np.full((len(rounds), sizes.max()), np.nan)  # one row a round, NaN where it is shorter than the longest
    for row, one in zip(table, rounds, strict=True):
        row[: len(one)] = one
    at_once = max(1, _VALUES_AT_ONCE // table.size)
    parts = [_drawn(table, sizes, q, min(at_once, draws - done), rng) for done in range(0, draws, at_once)]
    return np.concatenate(parts)


def _drawn(table: Floats, sizes: npt.NDArray[np.int64], q: float, draws: int, rng: np.random.Generator) -> Floats:
    """Quantiles (draws,) of redrawn tables (rounds, values)."""
    count, longest = table.shape
    chosen = rng.integers(count, size=(draws, count, 1))
    values = (rng.random((draws, count, longest)) * sizes[chosen]).astype(np.int64)
    picked = np.where(np.arange(longest) < sizes[chosen], table[chosen, values], np.nan).reshape(draws, -1)
    found = np.nanquantile(picked, q, axis=1) if (sizes < longest).any() else np.quantile(picked, q, axis=1)
    return np.asarray(found, dtype=np.float64)
