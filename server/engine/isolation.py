"""Faults stay where they belong: a failing row takes no other along, a failing observer nobody. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from server.engine.constraint import ConstraintFailed
from server.engine.scheduler import Seat
from server.engine.step import DeviceLost, Runner, Step, StepResult

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ran:
    """Seats that went through the model together; `result` None when they could not, and `fault` says why."""

    seats: list[Seat]
    result: StepResult | None
    fault: str = ""


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
        if len(seats) == 1 and seats[0].row.drafts:
            log.warning("a request made the model fail with its drafts; it goes on without", exc_info=True)
            seats[0].entry.drafting = None
            return run(runner, number, [seats[0].undrafted])
        if len(seats) == 1:
            if isinstance(fault, ConstraintFailed):
                log.info("a request's constraint failed: %s", fault)
            else:
                log.warning("a request made the model fail", exc_info=True)
            return [Ran(seats, None, describe(fault))]
    middle = len(seats) // 2
    return run(runner, number, seats[:middle]) + run(runner, number, seats[middle:])


def describe(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"


FIRST_STEP = 600.0  # seconds: it may have kernels to build
PATIENCE = 4.0
"""How much longer a full step may take than its tokens would at the best pace so far: they may look at far more."""


LEAST_CHUNK = 64
"""Tokens of prompts that a step may always take: with fewer, the weights are read too often for them."""


class NoProgress(RuntimeError):
    """There was work, and two steps in a row computed nothing: a fault of the scheduler that would otherwise spin."""


class Progress:
    """Watches that an engine moves on. One empty step can happen when an allocation is made to fail; two in a row would
    go on for ever."""

    def __init__(self, engine: str, max_batch_tokens: int, chunk_seconds: float | None = None) -> None:
        self._engine, self._max_batch_tokens, self._chunk_seconds = engine, max_batch_tokens, chunk_seconds
        self._idle_steps = 0  # in a row
        self._pace: float | None = None  # the least seconds a token of any step so far

    @property
    def longest_step(self) -> float:
        """Seconds that a step may honestly take; read from any thread."""
        return FIRST_STEP if self._pace is None else PATIENCE * self._max_batch_tokens * self._pace

    @property
    def chunk(self) -> int:
        """Tokens of prompts that a step of several requests may take, so that it holds them up by about `chunk_seconds`
        at the best pace so far; without a bound all."""
        if not self._pace or self._chunk_seconds is None:
            return self._max_batch_tokens
        return int(min(self._max_batch_tokens, max(LEAST_CHUNK, self._chunk_seconds / self._pace)))

    def took(self, tokens: int, seconds: float) -> None:
        """A step computed so many tokens in so long."""
        if tokens:
            self._pace = seconds / tokens if self._pace is None else min(self._pace, seconds / tokens)

    def watch(self, idle: str) -> None:
        """A step computes something, or, where it should and does not, `idle` says for whom. Raises NoProgress."""
        self._idle_steps = self._idle_steps + 1 if idle else 0
        if self._idle_steps > 1:
            raise NoProgress(f"{self._engine}: {idle} got no token")


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
