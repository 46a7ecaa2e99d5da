"""Quality for cost: bits per byte beside the time a token takes, against the first architecture, and what the two come
to together. Pure.

Cost is how long a server takes for 1,000 generated tokens of requests that met the objective, at that closed loop of
the experiment at which it is least: in an open loop everybody serves what is offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from statistics import fmean
from typing import Any

from client.compare.bits import Apart, stretches
from client.compare.paired import NOT_SHOWN, Difference, corrected, over_rounds
from client.compare.quality import Quality
from client.compare.results import Results
from client.load.arrivals import Closed
from client.load.record import Run
from client.load.statistics import Objective
from client.units import plain

KNOWS_NOTHING = 8.0  # bits per byte of who takes every byte for as likely; random weights have no fewer


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds for 1,000 tokens, by round, at a level."""

    level: int
    rounds: Mapping[int, float]

    @property
    def seconds(self) -> float:
        """The geometric mean of the rounds."""
        return exp(fmean(map(log, self.rounds.values())))


@dataclass(frozen=True, slots=True)
class Worth:
    """An architecture on the plane, and how far it is from the first; the first is from nothing."""

    architecture: int
    cost: Cost
    bits_per_byte: float
    bits: Apart | None = None
    time: Difference | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "level": self.cost.level,
            "seconds_per_1000_tokens": self.cost.seconds,
            "bits_per_byte": self.bits_per_byte,
            "bits": self.bits and self.bits.to_json(),
            "time": self.time and asdict(self.time) | {"verdict": self.time.verdict},
        }


def worths(results: Results) -> tuple[Worth, ...]:
    """The first architecture and those that can be held against it: of trained weights, judged passage by passage and
    measured in a closed loop. None where there are not two."""
    judged = results.qualities
    costs = [cost(results, i) for i in range(len(judged))]
    if not judged or judged[0] is None or costs[0] is None or knows_nothing(judged[0]):
        return ()
    apart, first, base = stretches(judged)[0].apart, judged[0], costs[0]
    kept = [
        (i, spent, one, bits)
        for i, (spent, one, bits) in enumerate(zip(costs, judged, apart, strict=True))
        if spent and one and bits and not knows_nothing(one)
    ]
    times = corrected([_slower(base, spent) for _, spent, _, _ in kept])
    others = [
        Worth(i, spent, one.bits_per_byte, bits, time) for (i, spent, one, bits), time in zip(kept, times, strict=True)
    ]
    return (Worth(0, base, first.bits_per_byte), *others) if others else ()


def knows_nothing(quality: Quality) -> bool:
    return quality.bits_per_byte >= KNOWS_NOTHING


def cost(results: Results, architecture: int) -> Cost | None:
    """At the closed loop at which it is least; None where there is none with such tokens in every round."""
    closed = [n for n, one in enumerate(results.experiment.levels) if isinstance(one, Closed)]
    runs = [(n, {m.cell.repeat: m.run for m in results.of(architecture, n)}) for n in closed]
    objective = results.experiment.objective
    told = [(n, {r: _seconds(run, objective) for r, run in rounds.items()}) for n, rounds in runs]
    costs = [Cost(n, rounds) for n, rounds in told if rounds and all(rounds.values())]
    return min(costs, key=lambda one: one.seconds, default=None)


def _seconds(run: Run, objective: Objective) -> float:
    """For 1,000 tokens; 0 where there were none."""
    tokens = sum(r.completion_tokens for r in run.records if objective.met(r))
    return 1000 * run.seconds / tokens if tokens else 0.0


def _slower(base: Cost, other: Cost) -> Difference:
    both = sorted(base.rounds.keys() & other.rounds.keys())
    return over_rounds("cost", [(base.rounds[r], other.rounds[r]) for r in both])


def in_words(found: Sequence[Worth], names: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each but the first."""
    return tuple(_sentence(one, found[0].bits_per_byte, names[0], names[one.architecture]) for one in found[1:])


def _sentence(one: Worth, base: float, first: str, name: str) -> str:
    assert one.bits is not None and one.time is not None, "the first is against nothing"
    more, ratio = one.bits.difference / base, one.time.ratio
    bits = f"{plain(100 * abs(more))} % {'fewer' if more < 0 else 'more'} bits per byte"
    time = f"{plain(max(ratio, 1 / ratio))} times {'less' if ratio < 1 else 'as much'} time a token"
    told = one.bits.verdict != NOT_SHOWN, one.time.verdict in ("faster", "slower")
    match told:
        case True, True if (more < 0) != (ratio < 1):
            return f"{name} against {first}: {bits} for {time}."
        case True, True:
            better, worse = (name, first) if more < 0 else (first, name)
            return f"{better} dominates {worse}: {name} has {bits} and takes {time}."
        case True, False:
            return f"{name} against {first}: {bits}, no difference in time shown."
        case False, True:
            return f"{name} against {first}: {time}, no difference in bits per byte shown."
    return f"{name} against {first}: no difference shown, in bits per byte or in time."
