"""How long steps wait for constraints. No torch here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any
from weakref import WeakSet

from server.engine.constraint import Constraint

GRACE = 0.002
"""Seconds that a step waits, all its requests together. What a constraint finds out is most often there after a tenth
of that; a request that lost a step for it would be as slow as two."""
PAUSE = 0.005  # seconds to wait where nothing else can be done


class Patience:
    """Which requests have no token in a step, because nobody knows yet what they may say next.

    A step waits GRACE at most, and for what is coming to a request only once: who is slow slows nobody down.
    """

    def __init__(self) -> None:
        self._left = 0.0
        self.late: list[Future[Any]] = []  # what the step under way waited for in vain
        self._waited_for: WeakSet[Future[Any]] = WeakSet()
        self.lost = False  # whether somebody has had to wait in the step under way

    def begin(self) -> None:
        """A step begins."""
        self._left, self.late, self.lost = GRACE, [], False

    def lacks(self, constraint: Constraint | None) -> bool:
        """Whether it cannot be asked in this step, or, having failed, any more."""
        if constraint is None or not (self._is_late(constraint.look_ahead()) or constraint.failure is not None):
            return False
        self.lost = True
        return True

    def _is_late(self, coming: Future[Any] | None) -> bool:
        if coming is None:
            return False
        if coming not in self._waited_for:
            self._waited_for.add(coming)
            began = time.monotonic()
            wait([coming], max(0.0, self._left))
            self._left -= time.monotonic() - began
        if coming.done():
            return False
        self.late.append(coming)
        return True


def rest(late: Sequence[Future[Any]]) -> None:
    """Nothing could be done anywhere: wait until one of these has come, or a while."""
    if late:
        wait(late, PAUSE, FIRST_COMPLETED)
