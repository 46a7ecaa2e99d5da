"""The HTTP/1 protocol with bounds: on heads, chunks, connections and the time a head may take."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.calllog import Who
from server.limits import Limits
from server.tally import UNKNOWN, Door
from server.transport.ids import new_id, peer_of

REASONS = {
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
}


CHUNK_LINE_BYTES = 16  # a chunk's length and the ends of its lines
LINGER_SECONDS = 2.0
"""How long what a client still sends is thrown away after an answer that did not wait for it. A connection closed on
unread bytes is reset, and the client never sees the answer."""


class Refused(Exception):
    """Stops the parser; `protocol._refusal` says why."""


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's protocol; what it refuses gets OpenAI's error body and a closed connection."""

    limits: ClassVar[Limits]
    door: ClassVar[Door]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal: tuple[int, str, str] = (400, "malformed_request", "this is not an HTTP/1.1 request")
        self._in_head = True
        self._head_bytes = 0
        self._without_offer = b""  # a head that offered another protocol, to be parsed once more
        self._chunks = self._messages = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_body = False
        self._body_bytes = 0
        self._beside_body = 0  # the lines of its chunks
        self._linger_timer: asyncio.TimerHandle | None = None
        self._refused = False  # nothing more is read from this connection
        self._owed = False  # the refusal waits for the answers to the requests before it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        self._stop_lingering()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._head_bytes += len(data) if self._in_head else 0
        in_body, before, message = self._in_body, self._body_bytes, self._messages
        self._feed(memoryview(data))
        if in_body and self._in_body and message == self._messages:
            self._count_beside_body(len(data) - (self._body_bytes - before))
        if (
            not self._refused
            and self._in_head
            and self._head_bytes > self.limits.head_bytes + self.limits.request_line_bytes
        ):
            self._refusal = self._head_refusal()
            self.send_400_response("")

    def _feed(self, data: memoryview) -> None:
        """Parse as uvicorn does, but offers of another protocol are passed over (RFC 9110, 7.8): for httptools a
        message that offers one ends with its head, and what its body has would be the next request."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = data[self._parse(data) :]
        except httptools.HttpParserError:
            self.send_400_response("")

    def _parse(self, data: memoryview) -> int:
        """How much was read: all, or up to the end of a head with an offer, which was then read again without it."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            head, self._without_offer = self._without_offer, b""
            self.parser = httptools.HttpRequestParser(self)  # the old one may take the message for ended
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(head)
            return int(offer.args[0])
        return len(data)

    def _count_beside_body(self, count: int) -> None:
        self._beside_body += count
        most = self.limits.body_chunks * CHUNK_LINE_BYTES + self.limits.head_bytes
        if not self._refused and self._beside_body > most:
            self._refusal = (400, "too_many_chunks", f"the lines of a body's chunks may have at most {most} bytes")
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._messages += 1
        self._chunks = self._body_bytes = self._beside_body = 0
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0
            self._await_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.request_line_bytes:
            limit = self.limits.request_line_bytes
            self._refuse(414, "uri_too_long", f"the request line may have at most {limit} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        size = sum(len(name) + len(value) for name, value in self.headers)
        if len(self.headers) > self.limits.head_count or size > self.limits.head_bytes:
            self._refuse(*self._head_refusal())

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._refuse(405, "method_not_allowed", "CONNECT is not offered: this is no proxy")
        if self.parser.should_upgrade():
            self._without_offer = self._head_without_offer()
            return
        self._in_head = False
        self._head_arrived()
        self.scope["dyno.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        self.scope["dyno.arriving"] = lambda: self._in_body  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        if self.parser.get_http_version() < "1.1":
            _end_with_connection(self.cycle)
        self._in_body = True

    def _head_without_offer(self) -> bytes:
        first = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([first, *lines, b"", b""])

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Called by the parser for every chunk of a chunked body."""
        self._chunks += 1
        if self._chunks > self.limits.body_chunks:
            self._refuse(400, "too_many_chunks", f"a body may come in at most {self.limits.body_chunks} chunks")

    def on_message_complete(self) -> None:
        if self._without_offer:
            return
        self._in_body = False
        self._stop_lingering()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if self._owed and last:
            self._send_refusal()
        elif self._in_body and not self.transport.is_closing():
            self._linger()

    def send_400_response(self, msg: str) -> None:
        """Refuse what arrives at this moment, once, after the answers to the requests before it."""
        self._refused = True
        self._head_arrived()
        if self._in_body and self.cycle.response_started:
            if not self.cycle.response_complete:
                self.transport.abort()  # it shall not look complete; one that is complete is not answered twice
            return
        self._owed = self._take_back() if self._in_body else not (self.cycle is None or self.cycle.response_complete)
        if not self._owed:
            self._send_refusal()

    def _take_back(self) -> bool:
        """Whoever works on the request whose body arrives has no one to answer; whether requests before it have."""
        if self.pipeline:
            self.pipeline.popleft()  # the newest; it had not begun
            return True
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return False

    def _send_refusal(self) -> None:
        if self.transport.is_closing():
            return
        (status, code, message), id = self._refusal, new_id()
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = orjson.dumps({"error": error})
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {id}\r\n\r\n"
        )
        self.door.answered(UNKNOWN, str(status), Who(id, peer=self.client and peer_of(*self.client)))
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():  # TLS cannot say that only one side has ended
            self.transport.write_eof()
        self._linger()

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refusal = (status, code, message)
        raise Refused(code)

    def _head_refusal(self) -> tuple[int, str, str]:
        limits = self.limits
        message = f"headers may be at most {limits.head_count} and have at most {limits.head_bytes} bytes"
        return 431, "headers_too_large", message

    def _linger(self) -> None:
        self._stop_lingering()
        self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _stop_lingering(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_late)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        if not self.transport.is_closing() and not self._refused:
            seconds = self.limits.head_seconds
            self._refusal = (408, "head_timeout", f"the head of the request did not arrive within {seconds:g} s")
            self.send_400_response("")


def _end_with_connection(cycle: RequestResponseCycle) -> None:
    """HTTP/1.0 knows no chunks (RFC 9112, 6.1) and no 100 (RFC 9110, 10.1.1): a body without a length ends where the
    connection does, which uvicorn closes behind every answer to it."""
    send = cycle.send

    async def unchunked(message: ASGISendEvent) -> None:
        if message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.chunked_encoding = cycle.waiting_for_100_continue = False
    cycle.send = unchunked  # type: ignore[method-assign]


def guarded(limits: Limits, door: Door) -> type[GuardedHttp]:
    """The protocol with these limits; uvicorn makes one for each connection."""
    return type("GuardedHttp", (GuardedHttp,), {"limits": limits, "door": door})
