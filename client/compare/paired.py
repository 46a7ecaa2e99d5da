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
        if not self.pairs or self.rounds < 2 or not self.ratio_interval.without(1.0):
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
    rng = np.random.default_rng(seed)
    medians = np.array([_resampled(differences, logs, rng) for _ in range(draws)])
    tail = 100 * (1 - _LEVEL) / 2
    low, high = np.percentile(medians, (tail, 100 - tail), axis=0)
    return Difference(
        metric=metric,
        pairs=sum(len(one) for one in logs),
        rounds=len(kept),
        difference=float(np.median(np.concatenate(differences))),
        difference_interval=Interval(float(low[0]), float(high[0])),
        ratio=float(np.exp(np.median(np.concatenate(logs)))),
        ratio_interval=Interval(float(np.exp(low[1])), float(np.exp(high[1]))),
    )


def _resampled(differences: Sequence[Floats], logs: Sequence[Floats], rng: np.random.Generator) -> tuple[float, float]:
    """(median difference, median log ratio) of one draw of rounds and of requests within each."""
    drawn = []
    for index in rng.integers(len(logs), size=len(logs)):
        rows = rng.integers(len(logs[index]), size=len(logs[index]))
        drawn.append((differences[index][rows], logs[index][rows]))
    joined = [np.concatenate(parts) for parts in zip(*drawn, strict=True)]
    return float(np.median(joined[0])), float(np.median(joined[1]))
