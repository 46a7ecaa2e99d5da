"""Where texts are tokenised: short ones at once, long ones in a thread beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from server.errors import QueueFull
from server.limits import Limits

T = TypeVar("T")

LONG_TEXT = 4096  # characters or ids; about a millisecond of tokenising


class TextWork:
    """Runs one piece of work at a time, wherever it runs: tokenizers keep state while they encode."""

    def __init__(self, limits: Limits) -> None:
        self._thread = ThreadPoolExecutor(1, "tokenise")
        self._limits = limits
        self._pending = 0

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """The result of `work` on a text of this size. Raises QueueFull when too many long texts wait."""
        if size <= LONG_TEXT and self._pending == 0:
            return work()
        if self._pending >= self._limits.queue:
            message = f"{self._pending} long texts wait to be tokenised already"
            raise QueueFull(message, retry_after=self._limits.retry_after_seconds)
        loop = asyncio.get_running_loop()
        self._pending += 1
        job = self._thread.submit(work)
        job.add_done_callback(lambda job: self._tell(loop, job))
        return await asyncio.wrap_future(job)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _tell(self, loop: asyncio.AbstractEventLoop, job: Future[T]) -> None:
        """Say that a job is done, from the worker's thread: the count belongs to the loop's, which may be gone."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._done)

    def _done(self) -> None:
        self._pending -= 1
