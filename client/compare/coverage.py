"""How often the intervals hold the truth, and how often two identical architectures are told apart: a simulation.

python -m client.compare.coverage [SIMULATIONS]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp

import numpy as np

from client.compare.bootstrap import Floats
from client.compare.paired import Difference, Round, compare, corrected
from client.compare.percentiles import percentile_interval
from client.compare.results import QUANTILES

_PAIRS = 20
_COMPARISONS = 12
_LONG = 20_000  # rounds, whose percentiles are taken for the truth


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

    def _round(self, ratio: float, rng: np.random.Generator) -> Round:
        base = rng.uniform(0.1, 1.0, _PAIRS)
        noise = rng.standard_t(2, _PAIRS) if self.heavy else rng.normal(size=_PAIRS)
        return Round(base, base * ratio * np.exp(rng.normal() * self.round + noise * self.request))


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
    any_told_apart: float  # a report of twelve comparisons of identical architectures has another verdict in it
    percentiles: tuple[float, ...]  # the interval of each of QUANTILES held the truth


def rates(world: World, simulations: int, draws: int = 400) -> Rates:
    """Seeded, so that anyone gets the same figures."""
    same = list(_simulated(world, 1.0, simulations, draws))
    slower = list(_simulated(world, 1.1, simulations, draws))
    typical = float(np.median([one.smallest for one in same]))
    at_smallest = list(_simulated(world, typical, simulations, draws))
    return Rates(
        covered=_share(not one.ratio_interval.without(1.0) for one in same),
        told_apart=_share(one.told_apart for one in same),
        caught=_share(one.verdict.endswith("slower") for one in slower),
        missed_at_smallest=_share(not one.verdict.endswith("slower") for one in at_smallest),
        any_told_apart=_share(_any_told_apart(world, seed, draws) for seed in range(max(1, simulations // 4))),
        percentiles=_percentiles(world, simulations),
    )


def _any_told_apart(world: World, seed: int, draws: int) -> bool:
    rng = np.random.default_rng((seed, 2))
    found = corrected([compare("total", world.measure(1.0, rng), seed, draws) for _ in range(_COMPARISONS)])
    return any(one.told_apart for one in found)


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
    told = "covered  told apart  10 % caught  missed at smallest  any of 12"
    print(f"rounds  request  round  tail    {told}  p50  p90  p95  p99")
    for world in WORLDS:
        found = rates(world, simulations)
        tail = "heavy" if world.heavy else "normal"
        print(
            f"{world.rounds:6}  {world.request:7.0%}  {world.round:5.0%}  {tail:6}  {found.covered:7.1%}  "
            f"{found.told_apart:10.1%}  {found.caught:11.1%}  {found.missed_at_smallest:18.1%}  "
            f"{found.any_told_apart:9.1%}  {'  '.join(f'{share:.1%}' for share in found.percentiles)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
