"""Requests that share one call of gRPC: one message of the server tells what is ready of all of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

import grpc

from dyno.inference.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from dyno.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

MOST_BYTES = 1 << 19  # of a message of several requests; servers take twice as much
MOST_SECONDS = 60.0
"""Age at which a call takes no more requests, so that a connection can be let go of and balanced anew."""


class ManyCall:
    """One GenerateMany call; it ends by itself when the last of its requests has ended."""

    def __init__(self, stub: InferenceServiceAsyncStub, metadata: Sequence[tuple[str, str]]) -> None:
        self._actions: deque[pb.GenerateAction] = deque()  # to be sent
        self._news = asyncio.Event()  # there are some, or there will be no more
        self._events: dict[int, asyncio.Queue[pb.GenerateEvent | Exception | None]] = {}  # by tag
        self._began = time.monotonic()
        self._last_tag = 0
        self._closed = False
        self._call = stub.GenerateMany(self._requests(), metadata=metadata)
        self._reader = asyncio.create_task(self._read())

    @property
    def open(self) -> bool:
        """Whether it takes another request."""
        return not self._closed and time.monotonic() - self._began < MOST_SECONDS

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._reader.done()

    async def events(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        """What comes of one request, its `end` included; without one the call ended first. Closing it cancels the
        request. Raises AioRpcError when the call fails."""
        self._last_tag += 1
        tag, events = self._last_tag, asyncio.Queue[pb.GenerateEvent | Exception | None]()
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
            if not ended:
                self._do(pb.GenerateAction(tag=tag, cancel=pb.GenerateCancel()))
            del self._events[tag]
            if not self._events:
                self._closed = True
                self._news.set()

    async def close(self) -> None:
        """End every request that is left."""
        self._closed = True
        self._call.cancel()
        await asyncio.wait([self._reader])

    def _do(self, action: pb.GenerateAction) -> None:
        self._actions.append(action)
        self._news.set()

    async def _requests(self) -> AsyncGenerator[pb.GenerateManyRequest, None]:
        """Actions that are there together go together, as far as a server takes them in one message."""
        while self._actions or not self._closed:
            await self._news.wait()
            self._news.clear()
            while self._actions:
                together = [self._actions.popleft()]
                size = together[0].ByteSize()
                while self._actions and (size := size + self._actions[0].ByteSize()) < MOST_BYTES:
                    together.append(self._actions.popleft())
                yield pb.GenerateManyRequest(actions=together)

    async def _read(self) -> None:
        failure: Exception | None = None
        try:
            async for response in self._call:
                for event in response.events:
                    if (events := self._events.get(event.tag)) is not None:
                        events.put_nowait(event)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            failure = error if isinstance(error, grpc.aio.AioRpcError) else None
        self._closed = True
        for events in self._events.values():
            events.put_nowait(failure)
