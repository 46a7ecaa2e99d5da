"""Work that nobody waits for, on a thread of its own: what is too slow for the engine's thread, or may never end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")

MOST_WAITING = 10_000
CLOSING_SECONDS = 2.0


class Aside(Generic[T]):
    """Takes values from any thread and works on them in turn. What cannot be done is lost, counted and told of once."""

    def __init__(self, name: str, work: Callable[[T], None]) -> None:
        """`name`: of the thread, and of what it loses."""
        self.lost = 0
        self._name, self._work = name, work
        self._waiting: queue.Queue[T | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name=name.replace(" ", "-"), daemon=True)
        self._thread.start()

    def put(self, value: T) -> None:
        """Work on it soon."""
        try:
            self._waiting.put_nowait(value)
        except queue.Full:
            self.lose("more requests end than it can take")

    def lose(self, why: str, count: int = 1) -> None:
        if not self.lost:
            log.warning(f"the {self._name} loses what it should tell", why=why)
        self.lost += count

    def close(self) -> None:
        """Work on what waits, within seconds."""
        try:
            self._waiting.put(None, timeout=CLOSING_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        while (value := self._waiting.get()) is not None:
            try:
                self._work(value)
            except Exception as error:  # observing is never fatal
                self.lose(str(error))
