"""The search for the highest rate that meets the objective. Pure, but for what is told of each rate that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

from client.compare.parts import Search
from client.load.record import Run
from client.load.statistics import Objective
from client.load.steady import overloaded


@dataclass(frozen=True, slots=True)
class Tried:
    """One rate on one architecture: which share of the requests met the objective, and whether that is enough."""

    architecture: int
    rate: float
    share: float
    held: bool


def judged(search: Search, objective: Objective, architecture: int, rate: float, run: Run) -> Tried:
    """A rate holds when enough requests met the objective and they did not wait ever longer."""
    met = sum(objective.met(record) for record in run.records)
    share = met / len(run.records) if run.records else 0.0
    held = share >= search.share and not overloaded(run.records) and not run.interrupted
    return Tried(architecture, rate, share, held)


def next_rate(search: Search, held: Mapping[float, bool]) -> float | None:
    """The rate to try after these: doubled until one fails, then halfway (as a ratio) between; None when found."""
    best, worst = bounds(held)
    if worst <= search.low or best >= search.high:
        return None
    if best == 0:
        return search.low
    if worst == inf:
        return min(2 * best, search.high)
    return sqrt(best * worst) if worst / best > 1 + search.tolerance else None


def bounds(held: Mapping[float, bool]) -> tuple[float, float]:
    """The highest rate that held with none below it failing, 0 where there is none; the lowest that failed, or inf."""
    worst = min((rate for rate, well in held.items() if not well), default=inf)
    return max((rate for rate, well in held.items() if well and rate < worst), default=0.0), worst


def outcomes(tried: Sequence[Tried], architecture: int) -> dict[float, bool]:
    """The rates tried on one architecture, and whether they held."""
    return {one.rate: one.held for one in tried if one.architecture == architecture}
