"""What happens to a gRPC call before the servicer sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.errors import InvalidRequest
from server.tally import UNKNOWN, Door
from server.transport.rpc.answering import Context, Details, answering, label


class MalformedMessage(InvalidRequest):
    code = "malformed_message"


class Gate(grpc.aio.ServerInterceptor):
    """Refuses messages that cannot be read, and counts these and calls of methods that do not exist.

    Left to itself, grpc.aio answers an unreadable message with UNKNOWN and a Python exception in words.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._door.answered(UNKNOWN, grpc.StatusCode.UNIMPLEMENTED.name)
            return None
        name = label(handler_call_details.method)
        if handler.request_streaming and "/" in name:  # reflection's, which counts for nothing
            return handler
        return handler._replace(
            request_deserializer=self._read(_reading(handler.request_deserializer)),
            response_serializer=self._written(handler.response_serializer),
            unary_unary=handler.unary_unary and self._guarded(name, handler.unary_unary),
            unary_stream=handler.unary_stream and self._guarded(name, handler.unary_stream),
            stream_stream=handler.stream_stream and _guarded_stream(handler.stream_stream),
        )

    def _read(self, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def counted(raw: bytes) -> Any:
            self._door.moved("received", len(raw))
            return read(raw)

        return counted

    def _written(self, serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        def written(message: Any) -> bytes:
            raw = serialize(message)
            self._door.moved("sent", len(raw))
            return raw

        return written

    def _guarded(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            if not isinstance(request, MalformedMessage):
                return await method(request, context)
            async with answering(context, self._door, name):
                raise request

        return guarded


def _guarded_stream(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The method gets the error where it would have read the message."""

    async def readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, MalformedMessage):
                raise request
            yield request

    async def guarded(requests: AsyncIterator[Any], context: Context) -> Any:
        return await method(readable(requests), context)

    return guarded


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserialiser that gives a MalformedMessage for what it cannot read."""

    def read(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except DecodeError:
            return MalformedMessage("the message is not one of this method's requests, or its text is not UTF-8")

    return read
