"""What can be said of a difference: the same requests on two architectures, round by round. Pure and seeded.

A request is compared with itself on the other architecture, so that how hard it is cancels out. Rounds differ by more
than chance (another program, a warmer processor), so the bootstrap draws whole rounds first and requests within them
second: an interval from requests alone would be sure of differences that are the machine's. With few rounds a bootstrap
is too narrow; bootstrap.py widens it. `python -m client.compare.coverage` shows how often it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, log, nan

import numpy as np

from client.compare.judge.bootstrap import DRAWS, Floats, Interval, interval
from client.compare.judge.ranks import holm, signed_rank_p
from client.compare.judge.student import mean, quantile
from client.compare.judge.words import Verdict, after_correction
from client.compare.plan.schedule import SURE_ROUNDS
from client.load.record import Record

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2
POWER = 0.8
MOST_LOST = 0.01  # of the pairs; the requests that are left are no fair sample of what was asked
_TICK = 1e-6  # seconds, as records are kept
_NEGLIGIBLE = 0.001  # a ratio as close to 1 as this is below what clocks and schedulers can carry

# What is compared, each a number of one request of which less is better.
METRICS: dict[str, Callable[[Record], float | None]] = {
    "first_token": lambda record: record.first_token,
    "per_token": lambda record: record.per_token,
    "total": lambda record: record.total,
}


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
    error: float = nan  # standard error of the ratio's logarithm
    probability: float = 1.0  # of the rank test, alone
    adjusted: float = 1.0  # the same, corrected for every comparison of its kind in the report
    reach: float = nan  # how far the ratio's logarithm has to be from 0 with few rounds, for as many comparisons
    lost: int = 0  # pairs (rounds, where each has one number) that one side or both failed to answer
    smallest: float = nan  # the least change of the ratio that this run would have shown four times out of five

    @property
    def of_requests(self) -> bool:
        """Whether each pair is a request answered twice, and not a round."""
        return self.metric in METRICS

    @property
    def too_lossy(self) -> bool:
        """Whether too many pairs were lost: a server that refuses most of its load is quick on the rest."""
        return self.lost > MOST_LOST * (self.pairs + self.lost)

    @property
    def shown(self) -> bool:
        """Whether the interval, for itself, is of a difference larger than clocks can carry."""
        apart = self.ratio_interval.without(1.0) and abs(self.ratio - 1) > _NEGLIGIBLE
        return self.pairs > 0 and self.rounds >= 2 and apart

    @property
    def verdict(self) -> Verdict:
        """What may be said of the difference. With few rounds the rank test has no say yet, and it only leans: by an
        interval as wide as the number of comparisons asks for."""
        if self.too_lossy:
            return Verdict.NONE
        if not self.shown:
            return Verdict.NOT_SHOWN
        word = "faster" if self.ratio < 1 else "slower"
        if self.rounds < SURE_ROUNDS:
            return Verdict(f"seems {word}") if abs(log(self.ratio)) > self.reach else Verdict.NOT_SHOWN
        return Verdict(word) if self.adjusted < 1 - LEVEL else Verdict.NOT_SHOWN

    @property
    def said(self) -> str:
        """The verdict, and why it is for neither where the interval alone leaves out 1."""
        if self.verdict is not Verdict.NOT_SHOWN or not self.shown:
            return self.verdict
        return after_correction(self.adjusted if self.rounds >= SURE_ROUNDS else None)

    @property
    def told_apart(self) -> bool:
        """Whether the verdict is for one of the two, if only by leaning."""
        return self.verdict.sure or self.verdict.leans


@dataclass(frozen=True, slots=True)
class Round:
    """Both architectures on one trace: values of the rows that both answered, and how many rows one of them failed."""

    baseline: Floats
    other: Floats
    lost: int = 0


def pair(metric: str, baseline: Sequence[Record], other: Sequence[Record]) -> Round:
    """The values of one metric, for the rows that both have; a row that either lost is counted. Rows whose user may
    leave are no pairs: those that both answered in time would be the quick ones of the slower side."""
    left, right = _values(metric, baseline), _values(metric, other)
    rows = sorted(left.keys() & right.keys())
    lost = len({r.row for r in (*baseline, *other) if r.error})
    return Round(np.array([left[row] for row in rows]), np.array([right[row] for row in rows]), lost)


def _values(metric: str, records: Sequence[Record]) -> dict[int, float]:
    """The values of one metric by row. A time too short for the clock, as between tokens that came at once, counts as
    one tick of it."""
    found = {r.row: METRICS[metric](r) for r in records if r.ok and not r.may_leave}
    return {row: max(value, _TICK) for row, value in found.items() if value is not None}


def compare(metric: str, rounds: Sequence[Round], seed: int = 0, draws: int = DRAWS) -> Difference:
    """The difference over all rounds, as if it were the only one asked for; NaN throughout where nothing was paired."""
    kept = [one for one in rounds if len(one.baseline)]
    lost = sum(one.lost for one in rounds)
    if not kept:
        return Difference(metric, 0, 0, nan, Interval(nan, nan), nan, Interval(nan, nan), lost=lost)
    differences = [one.other - one.baseline for one in kept]
    logs = [np.log(one.other / one.baseline) for one in kept]
    apart, _ = interval(differences, 0.5, LEVEL, seed, draws)
    factor, error = interval(logs, 0.5, LEVEL, seed, draws)
    alone = Difference(
        metric=metric,
        pairs=sum(len(one) for one in logs),
        rounds=len(kept),
        difference=float(np.median(np.concatenate(differences))),
        difference_interval=apart,
        ratio=float(np.exp(np.median(np.concatenate(logs)))),
        ratio_interval=Interval(float(np.exp(factor.low)), float(np.exp(factor.high))),
        error=error,
        probability=signed_rank_p(logs),
        lost=lost,
    )
    return corrected([alone])[0]


def over_rounds(metric: str, values: Sequence[tuple[float, float]], lost: int = 0) -> Difference:
    """The difference of numbers of which each round has one, (baseline, other), by Student's t over their logarithms;
    `lost`: rounds that have none.

    A rank test of five numbers cannot be surer than one in thirty, which no correction would leave anything of.
    """
    if len(values) < 2:
        nothing = Interval(nan, nan)
        return Difference(metric, len(values), len(values), nan, nothing, nan, nothing, lost=lost)
    gap = mean([other - baseline for baseline, other in values])
    factor = mean([log(other / baseline) for baseline, other in values])
    low, high = factor.ends(_TAIL)
    return Difference(
        metric=metric,
        pairs=len(values),
        rounds=len(values),
        difference=gap.value,
        difference_interval=Interval(*gap.ends(_TAIL)),
        ratio=exp(factor.value),
        ratio_interval=Interval(exp(low), exp(high)),
        error=factor.error,
        probability=factor.probability,
        lost=lost,
    )


def corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same differences, each knowing that the others of its kind were asked for as well (Holm's correction): times
    of single requests, and numbers of whole rounds.

    One correction for both would see much less, and hardly be surer, as they are mostly numbers of the same answers.
    """
    told = list(differences)
    for of_requests in (True, False):
        asked = [i for i, one in enumerate(told) if one.rounds >= 2 and one.of_requests == of_requests]
        for i, adjusted in zip(asked, holm([told[i].probability for i in asked]), strict=True):
            one, count = told[i], len(asked)
            told[i] = replace(one, adjusted=adjusted, smallest=_smallest(one, count), reach=_reach(one, count))
    return tuple(told)


def _reach(one: Difference, comparisons: int) -> float:
    """Half the width of the interval that shares the level among the comparisons."""
    return quantile(_TAIL / comparisons, one.rounds - 1) * one.error


def _smallest(one: Difference, comparisons: int) -> float:
    """The least ratio above 1 that is found with a probability of POWER, the level shared among the comparisons."""
    needed = _reach(one, comparisons) + quantile(1 - POWER, one.rounds - 1) * one.error
    return exp(min(needed, 700.0))
