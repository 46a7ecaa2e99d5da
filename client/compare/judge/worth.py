"""Quality for cost: bits per byte beside the time a token takes, against the first architecture, and what the two come
to together. Pure.

Cost is how long a server takes for a generated token (of a request that met the objective, where there is one), at that
closed loop of the experiment at which it is least: in an open loop everybody serves what is offered. Without an
objective and at one load it is what the report calls throughput, and the difference is that very one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from statistics import fmean
from typing import Any

from client.compare.judge.bits import Apart, Stretch, unknowing
from client.compare.judge.paired import Difference, corrected, over_rounds
from client.compare.judge.whole import lossy, seconds_a_token
from client.compare.judge.words import Verdict
from client.compare.measure.results import Place, Results
from client.load.arrivals import Closed
from client.load.record import Run
from client.load.statistics import Objective
from client.units import plain


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds a token, by round, at a level."""

    level: int
    rounds: Mapping[int, float]

    @property
    def seconds(self) -> float:
        """Seconds for 1,000 tokens, the geometric mean of the rounds."""
        return 1000 * exp(fmean(map(log, self.rounds.values())))


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


def worths(
    results: Results, texts: Sequence[Stretch], differences: Mapping[Place, Sequence[Difference]]
) -> tuple[Worth, ...]:
    """The first architecture and those that can be held against it: of trained weights, judged passage by passage and
    measured in a closed loop. None where there are not two. `differences` are those of the report."""
    if not texts:
        return ()
    held, nothing = texts[0], unknowing(results)
    known = {i: one for i, one in enumerate(results.qualities) if one and i not in nothing}
    costs = {i: spent for i in known if (spent := cost(results, i))}
    if 0 not in costs:
        return ()
    times = _times(results, {i: spent for i, spent in costs.items() if not i or held.apart[i]}, differences)
    others = [Worth(i, costs[i], known[i].bits_per_byte, held.apart[i], time) for i, time in times.items()]
    return (Worth(0, costs[0], known[0].bits_per_byte), *others) if others else ()


def cost(results: Results, architecture: int) -> Cost | None:
    """What a token costs at the closed loop at which it is least; None where there is none with such tokens in every
    round. A load under which too many requests failed is none: the others are quick for it."""
    closed = [n for n, one in enumerate(results.experiment.levels) if isinstance(one, Closed)]
    runs = [(n, {m.cell.repeat: m.run for m in results.of(architecture, n)}) for n in closed]
    objective = results.experiment.objective
    told = [
        (n, {r: _seconds(run, objective) for r, run in rounds.items()})
        for n, rounds in runs
        if not any(map(lossy, rounds.values()))
    ]
    costs = [Cost(n, rounds) for n, rounds in told if rounds and all(rounds.values())]
    return min(costs, key=lambda one: one.seconds, default=None)


def _seconds(run: Run, objective: Objective) -> float:
    """Seconds a token; 0 where there were none."""
    if not objective.asks:
        return seconds_a_token(run)
    tokens = sum(r.completion_tokens for r in run.records if objective.met(r))
    return run.seconds / tokens if tokens else 0.0


def _times(
    results: Results, costs: Mapping[int, Cost], differences: Mapping[Place, Sequence[Difference]]
) -> dict[int, Difference]:
    """The difference in time of each but the first: what the report has already, else a comparison that is corrected
    along with the report's own."""
    base, control = costs[0], results.experiment.control
    found = {i: _throughput(results, i, base, spent, differences) for i, spent in costs.items() if i}
    new = [i for i, one in found.items() if one is None]
    family = [one for (i, _), some in differences.items() if i != control for one in some]
    told = corrected([*family, *(_slower(base, costs[i]) for i in new)])[len(family) :]
    more = dict(zip(new, told, strict=True))
    return {i: one or more[i] for i, one in found.items()}


def _throughput(
    results: Results, i: int, base: Cost, other: Cost, differences: Mapping[Place, Sequence[Difference]]
) -> Difference | None:
    """The report's own difference of the same two numbers."""
    if results.experiment.objective.asks or base.level != other.level:
        return None
    return next((one for one in differences[i, other.level] if one.metric == "throughput"), None)


def _slower(base: Cost, other: Cost) -> Difference:
    both = sorted(base.rounds.keys() & other.rounds.keys())
    return over_rounds("cost", [(base.rounds[r], other.rounds[r]) for r in both])


def in_words(found: Sequence[Worth], results: Results) -> tuple[str, ...]:
    """A sentence for each but the first; and at which loads, where they are not the same."""
    names, loads = results.names, results.loads
    said = [_sentence(one, found[0].bits_per_byte, names[0], names[one.architecture]) for one in found[1:]]
    if len({one.cost.level for one in found}) > 1:
        each = ", ".join(f"{names[one.architecture]} at {loads[one.cost.level]}" for one in found)
        said.append(f"The time a token is of each where it takes least: {each}.")
    return tuple(said)


def _sentence(one: Worth, base: float, first: str, name: str) -> str:
    assert one.bits is not None and one.time is not None, "the first is against nothing"
    more, ratio = one.bits.difference / base, one.time.ratio
    bits = f"{plain(100 * abs(more))} % {'fewer' if more < 0 else 'more'} bits per byte"
    time = f"{plain(ratio)} times the time a token"
    apart, slower = one.bits.verdict.sure, one.time.verdict
    if apart and slower.sure:
        if (more < 0) != (ratio < 1):
            return f"{name} against {first}: {bits} for {time}."
        better, worse = (name, first) if more < 0 else (first, name)
        return f"{better} dominates {worse}: {name} has {bits} and takes {time}."
    bits = bits if apart else "no difference in bits per byte shown"
    return f"{name} against {first}: {bits}, {_in_time(slower, time)}."


def _in_time(verdict: Verdict, time: str) -> str:
    if verdict is Verdict.NOT_SHOWN:
        return "no difference in time shown"
    return time if verdict.sure else f"{verdict} ({time})"
