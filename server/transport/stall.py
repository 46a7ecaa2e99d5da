"""A bound on how long a write may wait for its reader and how much behind it, for the price of one timer an answer, not
one a write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

LOOKS = 4  # in the time that a write may take
LOOK_SECONDS = 1.0  # at most between two; a write that waits less is a busy machine's, not its reader's


class WriteStalled(ConnectionError):
    """What was written for a client has waited too long to be taken."""


class StallGuard:
    """Around an answer: when one of its writes takes longer than `seconds`, or waits while too much piles up behind it,
    the answering task is cancelled, and the `with` block raises WriteStalled."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._stalled = ""  # why
        self._piled_up: Callable[[], bool] = lambda: False
        self._look_seconds = min(seconds / LOOKS, LOOK_SECONDS)

    def watch(self, piled_up: Callable[[], bool]) -> None:
        """`piled_up`: whether more waits behind the writes that are under way than may."""
        self._piled_up = piled_up

    async def write(self, sending: Awaitable[None]) -> None:
        self._since = self._loop.time()
        try:
            await sending
        finally:
            self._since = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(self._look_seconds, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._stalled and self._task is not None:
            self._task.uncancel()
            raise WriteStalled(f"the client does not read its answer: {self._stalled}") from None

    def _look(self) -> None:
        waited = 0.0 if self._since is None else self._loop.time() - self._since
        if waited > self._seconds:
            self._stalled = f"a write waited {self._seconds:g} s"
        elif waited > self._look_seconds and self._piled_up():
            self._stalled = "too much waits behind what was written"
        if self._stalled and self._task is not None:
            self._task.cancel()
        else:
            self._timer = self._loop.call_later(self._look_seconds, self._look)
