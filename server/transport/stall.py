"""A bound on how long a write may wait for its reader, for the price of one timer an answer, not one a write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self

LOOKS = 4  # in the time that a write may take


class WriteStalled(ConnectionError):
    """What was written for a client has waited too long to be taken."""


class StallGuard:
    """Around an answer: when one of its writes takes longer than `seconds`, the answering task is cancelled, and the
    `with` block raises WriteStalled."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._stalled = False

    async def write(self, sending: Awaitable[None]) -> None:
        self._since = self._loop.time()
        try:
            await sending
        finally:
            self._since = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(self._seconds / LOOKS, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._stalled and self._task is not None:
            self._task.uncancel()
            raise WriteStalled("the client does not read its answer") from None

    def _look(self) -> None:
        if self._since is not None and self._loop.time() - self._since > self._seconds and self._task is not None:
            self._stalled = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_later(self._seconds / LOOKS, self._look)
