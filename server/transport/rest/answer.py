"""Running a call while its client is there: answered whole or as a stream, taken back when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.call import GenerateCall
from server.errors import InvalidRequest, ServiceError
from server.generation import Generation
from server.service import GenerationService
from server.transport.faults import internal_error
from server.transport.rest import sse
from server.transport.rest.calls import AnswerWishes
from server.transport.rest.writers import Writer
from server.transport.stall import StallGuard

MOST_HELD = 1 << 16  # bytes of events that are sent together


class GenerationAnswer(Response):
    """A response that generates while it is being sent."""

    def __init__(
        self, service: GenerationService, id: str, call: GenerateCall, writer: type[Writer], wishes: AnswerWishes
    ) -> None:
        super().__init__()
        self._service = service
        self._id = id
        self._call = call
        self._writer = writer
        self._wishes = wishes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ServiceError while nothing is sent yet; later errors go into the stream."""
        try:
            await while_connected(receive, self._run(send, scope["dyno.guard"]))
        except InvalidRequest as error:
            error.rename(self._wishes.names)
            raise

    async def _run(self, send: Send, guard: StallGuard) -> None:
        async with self._service.generate(self._id, self._call) as generation:
            writer = self._writer(generation, self._wishes)
            if self._wishes.stream:
                guard.watch(lambda: generation.piled_up)
                await self._stream(generation, writer, send)
                return
            body = writer.whole(await generation.whole())
        await send(start([(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]))
        await send(part(body, more=False))

    async def _stream(self, generation: Generation, writer: Writer, send: Send) -> None:
        """Nothing is sent before the first piece, so that what fails until then has a status of its own. Events that
        are there together go out together."""
        begun, held = False, b""
        try:
            async for piece in generation.pieces():
                held += writer.event(piece)
                if generation.goes_on and len(held) < MOST_HELD:
                    continue
                if not begun:
                    begun = True
                    await send(start(sse.HEADERS))
                sending, held = held, b""
                await send(part(sending))
            last = writer.end()
            if not begun:
                await send(start(sse.HEADERS))
        except ServiceError as error:
            if not begun:
                raise
            last = writer.error(error)
        except ConnectionError:
            raise  # there is nobody to be told
        except Exception as error:
            if not begun:
                raise
            last = writer.error(internal_error(self._id, error))
        await send(part(held + last, more=False))


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or cancel it when the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait((task, gone))


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def start(headers: list[tuple[bytes, bytes]]) -> Message:
    """Of an answer that is none of errors."""
    return {"type": "http.response.start", "status": 200, "headers": headers}


def part(body: bytes, more: bool = True) -> Message:
    """Of the body of an answer; `more`: there will be others."""
    return {"type": "http.response.body", "body": body, "more_body": more}
