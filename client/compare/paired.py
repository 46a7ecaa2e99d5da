"""What can be said of a difference: the same requests on two architectures, round by round. Pure and seeded.

A request is compared with itself on the other architecture, so that how hard it is cancels out. Rounds differ by more
than chance (another program, a warmer processor), so the bootstrap draws whole rounds first and requests within them
second: an interval from requests alone would be sure of differences that are the machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.compare.experiment import SURE_ROUNDS
from client.load.record import Record

Floats = npt.NDArray[np.float64]

_DRAWS = 2000
_LEVEL = 0.95
_VALUES_AT_ONCE = 1 << 20  # of the bootstrap, to bound its memory
_NEGLIGIBLE = 0.001  # a ratio as close to 1 as this is below what clocks and schedulers can carry

# What is compared, each a number of one request of which less is better.
METRICS: dict[str, Callable[[Record], float | None]] = {
    "first_token": lambda record: record.first_token,
    "per_token": lambda record: record.per_token,
    "total": lambda record: record.total,
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrap interval of 95 %."""

    low: float
    high: float

    def without(self, value: float) -> bool:
        return value < self.low or value > self.high


@dataclass(frozen=True, slots=True)
class Difference:
    """The other architecture against the baseline. `difference` is the median of other - baseline in seconds, `ratio`
    the median of other / baseline: below 1 the other is faster."""

    metric: str
    pairs: int
    rounds: int
    difference: float
    difference_interval: Interval
    ratio: float
    ratio_interval: Interval

    @property
    def verdict(self) -> str:
        """In words. With few rounds an interval that leaves 1 out may still be luck, and the verdict only leans."""
        shown = self.ratio_interval.without(1.0) and abs(self.ratio - 1) > _NEGLIGIBLE
        if not self.pairs or self.rounds < 2 or not shown:
            return "no difference shown"
        word = "faster" if self.ratio < 1 else "slower"
        return word if self.rounds >= SURE_ROUNDS else f"seems {word}"


@dataclass(frozen=True, slots=True)
class Round:
    """Both architectures on one trace: values of the rows that both answered."""

    baseline: Floats
    other: Floats


def pair(metric: str, baseline: Sequence[Record], other: Sequence[Record]) -> Round:
    """The values of one metric, for the rows that both have; a row that either lost is left out."""
    value = METRICS[metric]
    left = {r.row: v for r in baseline if r.ok and (v := value(r))}
    right = {r.row: v for r in other if r.ok and (v := value(r))}
    rows = sorted(left.keys() & right.keys())
    return Round(np.array([left[row] for row in rows]), np.array([right[row] for row in rows]))


def compare(metric: str, rounds: Sequence[Round], seed: int = 0, draws: int = _DRAWS) -> Difference:
    """The difference over all rounds; NaN throughout where nothing was paired."""
    kept = [one for one in rounds if len(one.baseline)]
    if not kept:
        nan = float("nan")
        return Difference(metric, 0, 0, nan, Interval(nan, nan), nan, Interval(nan, nan))
    differences = [one.other - one.baseline for one in kept]
    logs = [np.log(one.other / one.baseline) for one in kept]
    apart, factor = _interval(differences, seed, draws), _interval(logs, seed, draws)
    return Difference(
        metric=metric,
        pairs=sum(len(one) for one in logs),
        rounds=len(kept),
        difference=float(np.median(np.concatenate(differences))),
        difference_interval=apart,
        ratio=float(np.exp(np.median(np.concatenate(logs)))),
        ratio_interval=Interval(float(np.exp(factor.low)), float(np.exp(factor.high))),
    )


def _interval(rounds: Sequence[Floats], seed: int, draws: int) -> Interval:
    """Of the median over all rounds."""
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(_medians(rounds, seed, draws), (tail, 1 - tail))
    return Interval(float(low), float(high))


def _medians(rounds: Sequence[Floats], seed: int, draws: int) -> Floats:
    """(draws,) medians, each of as many rounds as there are, drawn anew, and of as many values within each."""
    rng = np.random.default_rng(seed)
    sizes = np.array([len(one) for one in rounds])
    table = np.full((len(rounds), sizes.max()), np.nan)  # one row a round, NaN where it is shorter than the longest
    for row, one in zip(table, rounds, strict=True):
        row[: len(one)] = one
    at_once = max(1, _VALUES_AT_ONCE // table.size)
    parts = [_drawn(table, sizes, min(at_once, draws - done), rng) for done in range(0, draws, at_once)]
    return np.concatenate(parts)


def _drawn(table: Floats, sizes: npt.NDArray[np.int64], draws: int, rng: np.random.Generator) -> Floats:
    """(draws,) medians of redrawn tables (rounds, values)."""
    count, longest = table.shape
    chosen = rng.integers(count, size=(draws, count, 1))
    values = (rng.random((draws, count, longest)) * sizes[chosen]).astype(np.int64)
    picked = np.where(np.arange(longest) < sizes[chosen], table[chosen, values], np.nan).reshape(draws, -1)
    return np.nanmedian(picked, axis=1) if (sizes < longest).any() else np.median(picked, axis=1)
