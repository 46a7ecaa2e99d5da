"""How the threads of a library share the cores with the program that uses it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_USUAL, _PATIENT = 0, 3  # Linux's SCHED_OTHER and SCHED_BATCH


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
