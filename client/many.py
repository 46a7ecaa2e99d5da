"""Requests that share one call of gRPC: one message of the server tells what is ready of all of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import grpc

from dyno.inference.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from dyno.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

MOST_REQUESTS = 256  # in flight; servers take no more on a call
MOST_BYTES = 1 << 19  # of a message of several requests; servers take twice as much
MOST_ACTIONS = 512  # of a message; servers take twice as many
IDLE_SECONDS = 1.0  # so long a call waits for another request when it has none
MOST_SECONDS = 60.0
"""Age at which a call takes no more requests, so that a connection can be let go of and balanced anew."""


_Events: TypeAlias = "asyncio.Queue[pb.GenerateEvent | Exception | None]"
"""Of one request; an exception or None: there will be no more, as the call has failed or ended."""


class ManyCall:
    """One GenerateMany call; it ends by itself when it had no request for a while."""

    def __init__(
        self, stub: InferenceServiceAsyncStub, metadata: Sequence[tuple[str, str]], *, shared: bool = True
    ) -> None:
        """shared: whether it takes more than one request."""
        self._most = MOST_REQUESTS if shared else 1
        self._actions: deque[pb.GenerateAction] = deque()  # to be sent
        self._news = asyncio.Event()  # there are some, or there will be no more
        self._events: dict[int, _Events | None] = {}  # by tag, until the server has ended it; None: nobody reads it
        self._began = time.monotonic()
        self._last_tag = 0
        self._closed = False
        self._heard = False  # whether the server has answered at all
        self._idle: asyncio.TimerHandle | None = None
        self._call = stub.GenerateMany(self._requests(), metadata=metadata)
        self._reader = asyncio.create_task(self._read())

    @property
    def open(self) -> bool:
        """Whether it takes another request."""
        old = time.monotonic() - self._began >= MOST_SECONDS
        return not self._closed and not old and len(self._events) < self._most

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._reader.done()

    async def events(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        """What comes of one request, its `end` included; without one the call ended first. Closing it cancels the
        request. Raises AioRpcError when the call fails."""
        self._last_tag += 1
        tag = self._last_tag
        events: _Events = asyncio.Queue()
        self._stop_idling()
        self._events[tag] = events
        self._do(pb.GenerateAction(tag=tag, start=pb.GenerateStart(request=request)))
        ended = False
        try:
            while not ended:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                ended = event is None or event.HasField("end")
                if event is not None:
                    yield event
        finally:
            if tag in self._events:  # the server has not ended it
                self._do(pb.GenerateAction(tag=tag, cancel=pb.GenerateCancel()))
                self._events[tag] = None
            self._stop_idling()
            if not any(self._events.values()):
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._leave)

    async def close(self) -> None:
        """End every request that is left."""
        self._stop_idling()
        self._finish()
        if not any(self._events.values()):
            await asyncio.wait([self._reader], timeout=IDLE_SECONDS)
        self._call.cancel()
        await asyncio.wait([self._reader])

    def _leave(self) -> None:
        """Nothing was asked for a while."""
        self._finish()
        if not self._heard:
            self._call.cancel()

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _finish(self) -> None:
        """Nothing more will be asked."""
        self._closed = True
        self._news.set()

    def _do(self, action: pb.GenerateAction) -> None:
        self._actions.append(action)
        self._news.set()

    async def _requests(self) -> AsyncGenerator[pb.GenerateManyRequest, None]:
        """Actions that are there together go together, as far as a server takes them in one message. Nothing is written
        on a call that was refused or has ended: the library would forget why."""
        await self._call.initial_metadata()
        self._heard = True
        while not self._call.done() and (self._actions or not self._closed):
            await self._news.wait()
            self._news.clear()
            while self._actions and not self._call.done():
                together = [self._actions.popleft()]
                size = together[0].ByteSize()
                while self._actions and len(together) < MOST_ACTIONS:
                    if (size := size + self._actions[0].ByteSize()) >= MOST_BYTES:
                        break
                    together.append(self._actions.popleft())
                yield pb.GenerateManyRequest(actions=together)

    async def _read(self) -> None:
        failure: Exception | None = None
        try:
            async for response in self._call:
                for event in response.events:
                    ended = event.HasField("end")
                    events = self._events.pop(event.tag, None) if ended else self._events.get(event.tag)
                    if events is not None:
                        events.put_nowait(event)
        except grpc.aio.AioRpcError as error:
            failure = error
        finally:
            self._closed = True
            for left in self._events.values():
                if left is not None:
                    left.put_nowait(failure)
