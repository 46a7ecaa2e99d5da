"""The search for the highest rate that meets the objective. Pure, but for what is told of each rate that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

from client.compare.plan.parts import Search
from client.load.judgement import of_the_client
from client.load.record import Run
from client.load.statistics import Objective, summarise
from client.load.steady import overloaded
from client.units import plain


@dataclass(frozen=True, slots=True)
class Tried:
    """One rate on one architecture: which share of the requests met the objective, whether that is enough, and what
    was measured. `warnings` are of the client, in the same words for every rate: a rate that it could not send says
    nothing of the server."""

    architecture: int
    rate: float
    share: float
    held: bool
    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    waited_longer: bool = False  # as time went on: the rate was above what the server holds
    first_token_p95: float | None = None
    total_p95: float | None = None
    warnings: tuple[str, ...] = ()


def judged(search: Search, objective: Objective, architecture: int, rate: float, run: Run) -> Tried:
    """A rate holds when enough requests met the objective, of those whose users did not leave before, and they did not
    wait ever longer."""
    waited_longer, summary = overloaded(run.records), summarise(run.records, run.seconds, objective)
    share = summary.goodput_share if summary.requests > summary.cancelled else 0.0
    return Tried(
        architecture,
        rate,
        share,
        held=share >= search.share and not waited_longer and not run.interrupted,
        requests=summary.requests,
        failed=summary.errors,
        seconds=run.seconds,
        waited_longer=waited_longer,
        first_token_p95=summary.first_token.p95 if summary.first_token.count else None,
        total_p95=summary.total.p95 if summary.total.count else None,
        warnings=tuple(flaw.what for flaw in of_the_client(run)),
    )


def to_try(search: Search, tried: Sequence[Tried], architecture: int) -> float | None:
    """The next rate of one architecture; None when it is found. The two that it ends between are tried twice, and one
    that held once and failed once a third time, so that one bad moment of the machine decides nothing."""
    votes = _votes(tried, architecture)
    tied = next((rate for rate, (well, badly) in votes.items() if well == badly), None)
    if tied is not None:
        return tied
    held = outcomes(tried, architecture)
    rate = next_rate(search, held)
    if rate is not None:
        return rate
    return next((rate for rate in bounds(held) if rate in votes and sum(votes[rate]) == 1), None)


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
    """The rates tried on one architecture, and whether they held more often than not."""
    return {rate: well > badly for rate, (well, badly) in _votes(tried, architecture).items()}


def unsteady(tried: Sequence[Tried], architecture: int) -> list[float]:
    """Rates that held at one time and failed at another."""
    return sorted(rate for rate, votes in _votes(tried, architecture).items() if all(votes))


def _votes(tried: Sequence[Tried], architecture: int) -> dict[float, tuple[int, int]]:
    """How often each rate held and how often it failed, by rate."""
    votes: dict[float, tuple[int, int]] = {}
    for one in tried:
        if one.architecture == architecture:
            well, badly = votes.get(one.rate, (0, 0))
            votes[one.rate] = (well + one.held, badly + (not one.held))
    return votes


def told(tried: Sequence[Tried], architecture: int) -> str:
    """The highest rate that held on one architecture, as a phrase for reports."""
    return in_words(*bounds(outcomes(tried, architecture)))


def in_words(best: float, worst: float) -> str:
    """What `bounds` found, as a phrase for reports."""
    if best == 0:
        return f"below {plain(worst)}/s" if worst < inf else "not tried"
    if worst == inf:
        return f"{plain(best)}/s held, the highest that was tried"
    return f"{plain(best)}/s held, {plain(worst)}/s did not"
