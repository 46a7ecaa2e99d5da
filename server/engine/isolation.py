"""Faults stay where they belong: a failing row takes no other along, a failing observer nobody. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from server.engine.constraint import ConstraintFailed
from server.engine.entry import Seat
from server.engine.request import Outcome
from server.engine.step import DeviceLost, Runner, Step, StepResult

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ran:
    """Seats that went through the model together; `result` None when they could not: `fault` says why then, and
    `outcome` whether it is ours (ERROR) or the caller's (REJECTED)."""

    seats: list[Seat]
    result: StepResult | None
    fault: str = ""
    outcome: Outcome = Outcome.ERROR

    @property
    def tokens(self) -> int:
        """How many went through the model."""
        return 0 if self.result is None else sum(seat.row.load for seat in self.seats)


def run(runner: Runner, number: int, seats: list[Seat]) -> list[Ran]:
    """Run the seats as one step; when that raises, run halves, until the fault is alone with the row that causes it,
    and that row without its drafts, which nobody may fail for.

    Running a row twice is safe: it writes the same entries to the same places. DeviceLost is nobody's: it is raised.
    """
    try:
        return [Ran(seats, runner.run(Step(number, tuple(seat.row for seat in seats))))]
    except DeviceLost:
        raise
    except Exception as fault:
        if len(seats) == 1 and not seats[0].row.drafts:
            if isinstance(fault, ConstraintFailed):
                log.info("a request's constraint failed: %s", fault)
                return [Ran(seats, None, str(fault), Outcome.REJECTED)]
            log.warning("a request made the model fail", exc_info=True)
            return [Ran(seats, None, describe(fault))]
        if len(seats) == 1:
            log.warning("a request made the model fail with its drafts; it goes on without", exc_info=True)
    # The fault is let go of before anything runs again: it holds what the failed step had in memory.
    if len(seats) == 1:
        seats[0].entry.drafting = None
        return run(runner, number, [seats[0].undrafted])
    middle = len(seats) // 2
    return run(runner, number, seats[:middle]) + run(runner, number, seats[middle:])


def describe(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"


class Guard:
    """Calls what must never be fatal (observers, statistics): a failure is counted, the first logged; it gives None."""

    def __init__(self) -> None:
        self.failures = 0

    def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return call(*args, **kwargs)
        except Exception:
            if self.failures == 0:
                log.warning("an observer failed; more of this is only counted", exc_info=True)
            self.failures += 1
            return None
