"""Whether the client's own event loop comes to its turn: what it is late for, it measures late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import numpy as np

EVERY = 0.01  # seconds


class Pulse:
    """Wakes again and again from now on, on the running loop, and notes how late; `stop` it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._late: list[float] = []
        self._beat()

    @property
    def late(self) -> float:
        """Seconds, the 99th percentile; 0 before the first."""
        return float(np.quantile(self._late, 0.99)) if self._late else 0.0

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        self._due = time.perf_counter() + EVERY
        self._timer = self._loop.call_later(EVERY, self._wake)

    def _wake(self) -> None:
        late = max(0.0, time.perf_counter() - self._due)  # uvloop's timers may ring early
        self._late += missed(late)
        self._beat()


def missed(late: float) -> Iterator[float]:
    """How late this beat is, and each that was due since: an arrival at any of those moments would have waited so long.
    Counted once, the longest wait would weigh as little as any (coordinated omission; HdrHistogram fills up likewise).
    """
    while late > EVERY:
        yield late
        late -= EVERY
    yield late
