"""GenerateMany: the requests of one call, each in a task of its own, and one writer for what they have ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial

import grpc

from dyno.inference.v1 import inference_pb2 as pb
from server.calllog import Who
from server.errors import Cancelled, DeadlineExceeded, InvalidValue, MissingValue, ServiceError
from server.generation import Generation
from server.service import GenerationService
from server.tally import Door
from server.tenancy import EVERYBODY
from server.transport.faults import internal_error
from server.transport.ids import given_id, new_id
from server.transport.rpc import convert
from server.transport.rpc.caller import admission, caller
from server.transport.rpc.errors import CallOver, status_message, status_of
from server.transport.rpc.generating import Envelope, counting_refusals, generating

METHOD = "GenerateMany/request"
"""What each request counts as, beside the call that carries it."""
MOST_BYTES = 1 << 20  # of a message of several events; a client takes 4 MiB, unless it was told otherwise


class ManyGenerations:
    """One call's requests. `answer` once; `piled_up` says whether more waits for its reader than may."""

    def __init__(
        self, service: GenerationService, door: Door, time_remaining: Callable[[], float | None], peer: str
    ) -> None:
        """`time_remaining`: seconds that the caller waits for the whole call; None: for ever. `peer`: where it is."""
        self._service = service
        self._door = door
        self._time_remaining = time_remaining
        self._peer = peer
        self._limits = service.limits
        self._events = pb.GenerateManyResponse()  # what is ready, to be written next
        self._large = 0  # bytes of what of it may be large
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by tag
        self._generations: set[Generation] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()  # for more events before the next is written
        self._over = False  # no more requests are taken

    @property
    def piled_up(self) -> bool:
        return any(generation.piled_up for generation in self._generations)

    async def answer(
        self,
        requests: AsyncIterator[pb.GenerateManyRequest],
        write: Callable[[pb.GenerateManyResponse], Awaitable[None]],
    ) -> None:
        """Answer requests until the caller has said its last and none is in flight.

        Raises ServiceError for a message that cannot be followed, and where no request is in flight when the server
        leaves or the call is too old; also what `requests` and `write` raise. Then, and when it is cancelled, so is
        every request in flight.
        """
        reading, ending = asyncio.create_task(self._read(requests)), asyncio.create_task(self._end_in_time())
        for task in (reading, ending):
            task.add_done_callback(lambda _: self._news.set())
        self._room.set()
        try:
            while self._tasks or not (reading.done() or self._over):
                await self._news.wait()
                self._news.clear()
                await self._write_ready(write)
                if reading.done():
                    reading.result()
            if not reading.done():
                self._service.require_ready()
                raise self._too_old()
        finally:
            tasks = (reading, ending, *self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_in_time(self) -> None:
        """Take no more requests once the server leaves or the call is old."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._service.left(), self._limits.call_seconds)
        self._over = True

    async def _write_ready(self, write: Callable[[pb.GenerateManyResponse], Awaitable[None]]) -> None:
        """Whoever has something ready now adds it before this task has its turn: it was woken by the first of them."""
        while self._events.events:
            ready, self._events, self._large = self._events, pb.GenerateManyResponse(), 0
            self._room.set()
            for message in _messages(ready):
                await write(message)

    async def _read(self, requests: AsyncIterator[pb.GenerateManyRequest]) -> None:
        most = self._limits.actions_per_message
        async for request in requests:
            if len(request.actions) > most:  # nobody else has a turn before the last of them
                raise InvalidValue.at_most("actions", len(request.actions), most, "in a message")
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
        if len(self._tasks) >= self._limits.requests_per_call:
            most = self._limits.requests_per_call
            raise InvalidValue(f"a call may have at most {most} requests in flight", param="start")
        id = new_id()
        self._door.opened()
        task = self._tasks[tag] = asyncio.create_task(self._run(tag, id, start))
        task.add_done_callback(partial(self._end_unbegun, tag, id, start))

    async def _run(self, tag: int, id: str, start: pb.GenerateStart) -> None:
        error: ServiceError | None = None
        try:
            await self._answer(tag, id, start)
        except ServiceError as failure:
            error = failure
        except asyncio.CancelledError:
            error = self._cancelled()
        except Exception as failure:
            error = internal_error(id, failure)
        self._end(tag, id, start, error)

    async def _answer(self, tag: int, id: str, start: pb.GenerateStart) -> None:
        caller.set(admission.get()())  # its key may have been taken back since the call began
        with counting_refusals(self._service, start.request):
            if self._over:
                self._service.require_ready()
                raise self._too_old()
            envelope = self._envelope(start)
        async with generating(self._service, id, convert.generate_call, start.request, envelope) as generation:
            self._generations.add(generation)
            try:
                async for piece in generation.pieces(merged=True):
                    for part in convert.parts(piece):
                        event = self._add(tag)
                        convert.fill_response(event.piece, id, part, generation.call.facts)
                        if part.finished is not None or part.prompt is not None:  # every token's experts or scores
                            self._weigh(event)
                        if not self._room.is_set():
                            await self._room.wait()
            finally:
                self._generations.discard(generation)

    def _envelope(self, start: pb.GenerateStart) -> Envelope:
        seconds = start.timeout_seconds if start.HasField("timeout_seconds") else None
        if seconds is not None and not seconds > 0:
            raise InvalidValue(f"timeout_seconds must be more than 0, got {seconds:g}", param="timeout_seconds")
        waits = [wait for wait in (seconds, self._time_remaining()) if wait is not None]
        return Envelope(min(waits, default=None), start.request_id or None, start.traceparent or None)

    def _too_old(self) -> ServiceError:
        seconds = self._limits.call_seconds
        return CallOver(f"a call takes requests for {seconds:g} s; begin another one", retry_after=0)

    def _cancelled(self) -> ServiceError:
        remaining = self._time_remaining()
        if remaining is not None and remaining <= 0:
            return DeadlineExceeded("the time for this call ran out before the request was complete")
        return Cancelled("the request was cancelled")

    def _end_unbegun(self, tag: int, id: str, start: pb.GenerateStart, task: asyncio.Task[None]) -> None:
        """The end of a task that was cancelled before its first turn."""
        if self._tasks.get(tag) is task:
            error = self._cancelled()
            with contextlib.suppress(ServiceError), counting_refusals(self._service, start.request):
                raise error
            self._end(tag, id, start, error)

    def _end(self, tag: int, id: str, start: pb.GenerateStart, error: ServiceError | None) -> None:
        """Add the last event of a request, and count how it ended."""
        del self._tasks[tag]
        code, end = grpc.StatusCode.OK, self._add(tag).end
        if error is None:
            end.SetInParent()
        else:
            code, status = status_of(error), status_message(error, id)
            end.CopyFrom(pb.GenerateEnd(code=status.code, message=status.message, details=status.details))
        self._door.closed()
        who = Who(id, given_id(start.request_id), caller.get(EVERYBODY).name, self._peer)
        self._door.answered(METHOD, code.name, who)

    def _add(self, tag: int) -> pb.GenerateEvent:
        event: pb.GenerateEvent = self._events.events.add(tag=tag)
        if len(self._events.events) >= self._limits.unsent_events:
            self._room.clear()
        self._news.set()
        return event

    def _weigh(self, event: pb.GenerateEvent) -> None:
        self._large += event.ByteSize()
        if self._large >= MOST_BYTES:
            self._room.clear()


def _messages(ready: pb.GenerateManyResponse) -> Iterator[pb.GenerateManyResponse]:
    """All events in one, or each in its own where that would be too large: the experts of every token can be."""
    if ready.ByteSize() <= MOST_BYTES:
        yield ready
        return
    for event in ready.events:
        yield pb.GenerateManyResponse(events=[event])
