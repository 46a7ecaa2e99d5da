"""GenerateMany: the requests of one call, each in a task of its own, and one writer for what they have ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial

import grpc

from dyno.inference.v1 import inference_pb2 as pb
from server.errors import Cancelled, InvalidValue, MissingValue, ServiceError
from server.generation import Generation
from server.service import GenerationService
from server.transport.rpc import convert
from server.transport.rpc.errors import internal_error, status_message, status_of
from server.transport.rpc.generating import Envelope, generating
from server.transport.watch import TransportObserver, new_id

METHOD = "GenerateMany/request"
"""What each request counts as, beside the call that carries it."""
MOST_BYTES = 1 << 20  # of a message of several events; a client takes 4 MiB, unless it was told otherwise


class ManyGenerations:
    """One call's requests. `answer` once; `piled_up` says whether more waits for its reader than may."""

    def __init__(self, service: GenerationService, observer: TransportObserver) -> None:
        self._service = service
        self._observer = observer
        self._most_events = service.limits.unsent_events
        self._events = pb.GenerateManyResponse()  # what is ready, to be written next
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by tag
        self._generations: set[Generation] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()  # for more events before the next is written

    @property
    def piled_up(self) -> bool:
        return any(generation.piled_up for generation in self._generations)

    async def answer(
        self,
        requests: AsyncIterator[pb.GenerateManyRequest],
        write: Callable[[pb.GenerateManyResponse], Awaitable[None]],
    ) -> None:
        """Until the caller has said its last and no request is in flight.

        Raises ServiceError for a message that cannot be followed, and when the server leaves and no request is in
        flight; also what `requests` and `write` raise. Then, and when it is cancelled, so is every request in flight.
        """
        reading = asyncio.create_task(self._read(requests))
        leaving = asyncio.create_task(self._service.left())
        for task in (reading, leaving):
            task.add_done_callback(lambda _: self._news.set())
        self._room.set()
        try:
            while self._tasks or not (reading.done() or leaving.done()):
                await self._news.wait()
                self._news.clear()
                await self._write_ready(write)
                if reading.done():
                    reading.result()
            if not reading.done():
                self._service.require_ready()
        finally:
            tasks = (reading, leaving, *self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write_ready(self, write: Callable[[pb.GenerateManyResponse], Awaitable[None]]) -> None:
        """Whoever has something ready now adds it before this task has its turn: it was woken by the first of them."""
        while self._events.events:
            ready, self._events = self._events, pb.GenerateManyResponse()
            self._room.set()
            for message in _messages(ready):
                await write(message)

    async def _read(self, requests: AsyncIterator[pb.GenerateManyRequest]) -> None:
        async for request in requests:
            for action in request.actions:
                self._do(action)
            await self._room.wait()  # a caller that does not read its answers is not heard either

    def _do(self, action: pb.GenerateAction) -> None:
        match action.WhichOneof("kind"):
            case "start":
                self._start(action.tag, action.start)
            case "cancel":
                if (task := self._tasks.get(action.tag)) is not None:
                    task.cancel()
            case _:
                raise MissingValue(f"action of tag {action.tag}: one of start and cancel is needed", param="start")

    def _start(self, tag: int, start: pb.GenerateStart) -> None:
        if tag in self._tasks:
            raise InvalidValue(f"tag {tag} is that of a request in flight", param="tag")
        id = new_id()
        self._observer.opened("grpc")
        task = self._tasks[tag] = asyncio.create_task(self._run(tag, id, start))
        task.add_done_callback(partial(self._end, tag, id))

    async def _run(self, tag: int, id: str, start: pb.GenerateStart) -> None:
        async with generating(self._service, id, convert.generate_call, start.request, _envelope(start)) as generation:
            self._generations.add(generation)
            try:
                async for piece in generation.pieces(merged=True):
                    convert.fill_response(self._add(tag).piece, id, piece, generation.call.facts)
                    if not self._room.is_set():
                        await self._room.wait()
            finally:
                self._generations.discard(generation)

    def _end(self, tag: int, id: str, task: asyncio.Task[None]) -> None:
        """The last event. A task that was cancelled before its first turn ends here too."""
        del self._tasks[tag]
        error, code, end = _error(task, id), grpc.StatusCode.OK, self._add(tag).end
        if error is None:
            end.SetInParent()
        else:
            code, status = status_of(error), status_message(error, id)
            end.CopyFrom(pb.GenerateEnd(code=status.code, message=status.message, details=status.details))
        self._observer.closed("grpc")
        self._observer.answered("grpc", METHOD, code.name)

    def _add(self, tag: int) -> pb.GenerateEvent:
        event: pb.GenerateEvent = self._events.events.add(tag=tag)
        if len(self._events.events) >= self._most_events:
            self._room.clear()
        self._news.set()
        return event


def _envelope(start: pb.GenerateStart) -> Envelope:
    seconds = start.timeout_seconds if start.HasField("timeout_seconds") else None
    if seconds is not None and not seconds > 0:
        raise InvalidValue(f"timeout_seconds must be more than 0, got {seconds:g}", param="timeout_seconds")
    return Envelope(seconds, start.request_id or None, start.traceparent or None)


def _error(task: asyncio.Task[None], id: str) -> ServiceError | None:
    """Why a request did not come to its end."""
    if task.cancelled():
        return Cancelled("the request was cancelled")
    error = task.exception()
    if error is None or isinstance(error, ServiceError):
        return error
    return internal_error(id, error)


def _messages(ready: pb.GenerateManyResponse) -> Iterator[pb.GenerateManyResponse]:
    """All events in one, or each in its own where that would be too large: the experts of every token can be."""
    if ready.ByteSize() <= MOST_BYTES:
        yield ready
        return
    for event in ready.events:
        yield pb.GenerateManyResponse(events=[event])
