"""What the interpreter of a serving process is told, so that its two threads and its collector do not hold up a step,
and the system, so that the threads of libraries do not. Measured by
`python -m tests.bench.step_overhead --against tuning=off`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator

_USUAL, _PATIENT = 0, 3  # Linux's SCHED_OTHER and SCHED_BATCH

SWITCH_SECONDS = 0.0005
"""How long the engine and the event loop may keep each other from the interpreter. Every operation of torch lets go of
it and takes it back: with the usual 5 ms a step waits that long wherever the other one is busy."""

YOUNG_OBJECTS = 50_000
"""So many more objects than before make the collector look through the new ones; usually 700, several times a step."""


def tune() -> None:
    """Once, before anything else runs."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(YOUNG_OBJECTS)


def settle() -> None:
    """Once, when everything is loaded: what is here stays, and the collector need not look through it again."""
    gc.collect()
    gc.freeze()


def loop_factory() -> Callable[[], AbstractEventLoop] | None:
    """What makes the event loop: uvloop where it is installed; None is asyncio's own."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # not for every system, and asyncio does the same more slowly
        return None
    return new_event_loop


@contextlib.contextmanager
def patient_threads() -> Iterator[None]:
    """Threads that are started inside wait, when they are woken, until a core is free or it is their turn, instead of
    taking it from whoever woke them. Their part of the time stays the same. Where the system is Linux and lets us."""
    patient = _reschedule(_USUAL, _PATIENT)
    try:
        yield
    finally:
        if patient:
            _reschedule(_PATIENT, _USUAL)


def _reschedule(now: int, then: int) -> bool:
    """Put this thread from one policy under another; whether it was under the one, and is under the other."""
    if sys.platform != "linux":
        return False
    try:
        if os.sched_getscheduler(0) != now:
            return False  # somebody else has decided how this process is scheduled
        os.sched_setscheduler(0, then, os.sched_param(0))
    except OSError:
        return False
    return True
