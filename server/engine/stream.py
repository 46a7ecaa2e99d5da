"""One request's deltas on their way from the engine thread to whoever reads them on the asyncio loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from server.engine.ending import Delta
from server.engine.request import Outcome


class EngineFault(Exception):
    """The engine thread died, stands still or was stopped. The message is safe to log, not meant for users."""


class Stream:
    """One request's deltas as they come; ends after the delta that has stats. For one reader.

    Nothing is dropped for a slow reader. Who sees that too much is `pending` cancels: the engine does not wait.
    """

    def __init__(self, cancel: Callable[[Outcome], None]) -> None:
        self._cancel = cancel
        self._cancelled = False
        self._deltas: deque[Delta] = deque()
        self._reader: asyncio.Future[None] | None = None  # waits for news
        self._ended = False
        self._fault: EngineFault | None = None

    @property
    def pending(self) -> int:
        """Deltas that were not read yet."""
        return len(self._deltas)

    @property
    def ended(self) -> bool:
        """Whether its last delta has come, read or not, or none will."""
        return self._ended

    def cancel(self, outcome: Outcome = Outcome.CANCELLED) -> None:
        """Ask the engine to end the request; its last delta still comes. From any thread, any number of times."""
        if not (self._cancelled or self._ended):
            self._cancelled = True
            self._cancel(outcome)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        while not self._deltas:
            if self._fault is not None:
                raise self._fault
            if self._ended:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._deltas.popleft()

    def push(self, delta: Delta) -> None:
        """For the loop, on the asyncio thread."""
        self._deltas.append(delta)
        self._ended = delta.stats is not None
        self._wake()

    def fail(self, fault: EngineFault) -> None:
        """For the loop, on the asyncio thread: the reader gets what is here, then the fault."""
        self._ended, self._fault = True, fault
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
