"""How often the intervals hold the truth, and how often two identical architectures are told apart: a simulation.

python -m client.compare.coverage [SIMULATIONS]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp, sqrt

import numpy as np

from client.compare.judge.bootstrap import Floats
from client.compare.judge.findings import QUANTILES, differences_of
from client.compare.judge.paired import Difference, Round, compare, corrected
from client.compare.judge.percentiles import percentile_interval
from client.compare.judge.whole import over_runs
from client.compare.judge.words import Verdict
from client.facts import Facts, Usage
from client.load.arrivals import Closed
from client.load.record import Record, Run

_PAIRS = 20
_LOADS = 3  # of a whole report, seven comparisons each
_LONG = 20_000  # rounds, whose percentiles are taken for the truth
_SLOWER = (Verdict.SLOWER, Verdict.SEEMS_SLOWER)


@dataclass(frozen=True, slots=True)
class World:
    """A made-up machine: the spread of one request (log scale), of a whole round, and how heavy the tail is."""

    rounds: int
    request: float
    round: float
    heavy: bool = False

    def measure(self, ratio: float, rng: np.random.Generator) -> list[Round]:
        """Rounds in which the other takes `ratio` times as long."""
        return [self._round(ratio, rng) for _ in range(self.rounds)]

    def runs(self, ratio: float, rng: np.random.Generator) -> list[tuple[Run, Run]]:
        """What `measure` gives, as whole runs of two sides with as much noise between them; a third of the time is to
        the first token, and the rest has noise of its own."""
        return [self._pair(ratio, rng) for _ in range(self.rounds)]

    def _pair(self, ratio: float, rng: np.random.Generator) -> tuple[Run, Run]:
        base = rng.uniform(0.1, 1.0, _PAIRS)
        one, two = (self._run(base * factor, rng) for factor in (1.0, ratio))
        return one, two

    def _run(self, times: Floats, rng: np.random.Generator) -> Run:
        times = times * np.exp(rng.normal() * self.round / sqrt(2))
        first, rest = (times * share * np.exp(self._noise(rng) * self.request / sqrt(2)) for share in (1 / 3, 2 / 3))
        records = tuple(
            _record(row, float(a), float(a + b)) for row, (a, b) in enumerate(zip(first, rest, strict=True))
        )
        return Run("", "", Closed(1), "", records, float(first.sum() + rest.sum()), "", 0.0, False)

    def _noise(self, rng: np.random.Generator) -> Floats:
        return rng.standard_t(2, _PAIRS) if self.heavy else rng.normal(size=_PAIRS)

    def _round(self, ratio: float, rng: np.random.Generator) -> Round:
        base = rng.uniform(0.1, 1.0, _PAIRS)
        noise = self._noise(rng)
        return Round(base, base * ratio * np.exp(rng.normal() * self.round + noise * self.request))


def _record(row: int, first: float, end: float) -> Record:
    return Record(row, 0.0, 0.0, (first, end), end, Facts("length", Usage(1, 2)))


WORLDS = tuple(
    World(rounds, 0.05, between, heavy)
    for rounds in (3, 5, 10)
    for between, heavy in ((0.0, False), (0.02, False), (0.05, False), (0.02, True))
)


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of the simulations."""

    covered: float  # the interval of the ratio held the truth
    told_apart: float  # identical architectures, another verdict than "no difference shown"
    caught: float  # ten per cent slower, and said so
    missed_at_smallest: float  # slower by exactly what the run said it could have seen, and not shown
    tail_covered: float  # the interval of the ratio of 95th percentiles, of which a round has one, held the truth
    tail_caught: float  # those ten per cent slower, and said so
    any_told_apart: float  # a whole report of identical architectures at three loads has another verdict in it
    percentiles: tuple[float, ...]  # the interval of each of QUANTILES held the truth


def rates(world: World, simulations: int, draws: int = 400) -> Rates:
    """Seeded, so that anyone gets the same figures."""
    same = list(_simulated(world, 1.0, simulations, draws))
    slower = list(_simulated(world, 1.1, simulations, draws))
    typical = float(np.median([one.smallest for one in same]))
    at_smallest = list(_simulated(world, typical, simulations, draws))
    tails, slower_tails = (list(_tails(world, ratio, simulations)) for ratio in (1.0, 1.1))
    return Rates(
        covered=_share(not one.ratio_interval.without(1.0) for one in same),
        told_apart=_share(one.told_apart for one in same),
        caught=_share(one.verdict in _SLOWER for one in slower),
        missed_at_smallest=_share(one.verdict not in _SLOWER for one in at_smallest),
        tail_covered=_share(not one.ratio_interval.without(1.0) for one in tails),
        tail_caught=_share(one.verdict in _SLOWER for one in slower_tails),
        any_told_apart=_share(_any_told_apart(world, seed, draws) for seed in range(max(1, simulations // 4))),
        percentiles=_percentiles(world, simulations),
    )


def _any_told_apart(world: World, seed: int, draws: int) -> bool:
    rng = np.random.default_rng((seed, 2))
    found = [one for _ in range(_LOADS) for one in differences_of(world.runs(1.0, rng), seed, draws)]
    return any(one.told_apart for one in corrected(found))


def _tails(world: World, ratio: float, simulations: int) -> Iterator[Difference]:
    """Differences of the tail of the times end to end, each as if it were the only thing asked for."""
    for seed in range(simulations):
        runs = world.runs(ratio, np.random.default_rng((seed, 4, round(ratio * 1e6))))
        yield corrected([one for one in over_runs(runs) if one.metric == "total_p95"])[0]


def _percentiles(world: World, simulations: int) -> tuple[float, ...]:
    def times(world: World, seed: int) -> list[Floats]:
        return [one.other for one in world.measure(1.0, np.random.default_rng((seed, 3)))]

    truth = np.quantile(np.concatenate(times(replace(world, rounds=_LONG), simulations)), QUANTILES)
    measured = [times(world, seed) for seed in range(simulations)]
    return tuple(
        _share(not percentile_interval(one, q).without(value) for one in measured)
        for q, value in zip(QUANTILES, truth, strict=True)
    )


def _simulated(world: World, ratio: float, simulations: int, draws: int) -> Iterator[Difference]:
    for seed in range(simulations):
        yield compare(
            "total", world.measure(ratio, np.random.default_rng((seed, round(exp(ratio) * 1e6)))), seed, draws
        )


def _share(hits: Iterator[bool]) -> float:
    told = list(hits)
    return sum(told) / len(told)


def main() -> None:
    asked = "".join(sys.argv[1:2]) or "1000"
    if not asked.isdecimal() or (simulations := int(asked)) < 1:
        sys.exit(f"SIMULATIONS must be a whole number of at least 1, got {asked}")
    told = "covered  told apart  10 % caught  missed at smallest  tail covered  10 % caught  any of 21"
    print(f"rounds  request  round  tail    {told}  p50  p90  p95  p99")
    for world in WORLDS:
        found = rates(world, simulations)
        tail = "heavy" if world.heavy else "normal"
        print(
            f"{world.rounds:6}  {world.request:7.0%}  {world.round:5.0%}  {tail:6}  {found.covered:7.1%}  "
            f"{found.told_apart:10.1%}  {found.caught:11.1%}  {found.missed_at_smallest:18.1%}  "
            f"{found.tail_covered:12.1%}  {found.tail_caught:11.1%}  {found.any_told_apart:9.1%}  "
            f"{'  '.join(f'{share:.1%}' for share in found.percentiles)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
