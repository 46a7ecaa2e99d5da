"""What both transports do around every call: an id, a count by code, a bound on stalled writes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

import structlog

from server.engine.request import Trace
from server.transport.stall import StallGuard

log = structlog.get_logger()

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

TRACEPARENT = re.compile(
    r"(?!ff|00-.{52}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII
)
GIVEN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
UNKNOWN = "unknown"
CLIENT_GONE, SERVER_FAILED = 499, 500
CLOSE = (b"connection", b"close")


class TransportObserver(Protocol):
    def answered(self, transport: str, method: str, code: str) -> None:
        """A call got its answer. `method` and `code` are from closed sets."""
        ...

    def opened(self, transport: str) -> None:
        """A call begins to be answered; `closed` follows."""
        ...

    def closed(self, transport: str) -> None: ...

    def moved(self, transport: str, direction: str, count: int) -> None:
        """So many bytes of bodies or messages were "received" or "sent"."""
        ...


def new_id() -> str:
    """An id of a call: unguessable, and nobody else's."""
    return secrets.token_hex(12)


def told_id(given: str | None, id: str) -> str:
    """What a call is told as its id: the one its caller gave it, when that is a plain one, else ours.

    Inside only ours counts: callers may give one id to several calls, or somebody else's.
    """
    return given_id(given) or id


def given_id(given: str | None) -> str | None:
    """The id that a caller gave its call, when it is a plain one."""
    return given if given is not None and GIVEN_ID.fullmatch(given) else None


def trace_of(traceparent: str | None) -> Trace | None:
    """What a caller says of the trace its call belongs to; None where it says nothing, or nothing that can be read."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    return None if found is None else Trace(found[1], found[2], bool(int(found[3], 16) & 1))


class HttpWatch:
    """Outermost middleware: puts `request_id` and `arrived` into the scope's state, x-request-id on the answer, and
    `connection: close` on those of a server that is leaving: the client's next request goes to another one."""

    def __init__(
        self,
        app: App,
        observer: TransportObserver,
        clock: Callable[[], float],
        stalled_write_seconds: float,
        leaving: Callable[[], bool],
    ) -> None:
        self._app = app
        self._observer = observer
        self._clock = clock
        self._stalled_write_seconds = stalled_write_seconds
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = new_id()
        scope["state"] = {"request_id": request_id, "arrived": self._clock()}
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
        header = (b"x-request-id", told_id(given, request_id).encode())
        code, complete = CLIENT_GONE, False

        async def watched(message: Message) -> None:
            nonlocal code, complete
            if message["type"] == "http.response.start":
                code = message["status"]
                # What still arrives when a connection closes would take the answer with it.
                closes = self._leaving() and not scope.get("dyno.arriving", _nothing)()
                closing = (CLOSE,) if closes and CLOSE not in message["headers"] else ()
                message["headers"] = [*message["headers"], header, *closing]
            else:
                complete = not message.get("more_body", False)
                self._observer.moved("rest", "sent", len(message.get("body", b"")))
            await guard.write(send(message))

        async def heard() -> Message:
            message = await receive()
            self._observer.moved("rest", "received", len(message.get("body", b"")))
            return message

        self._observer.opened("rest")
        try:
            with StallGuard(self._stalled_write_seconds) as guard:
                scope["dyno.guard"] = guard
                await self._app(scope, heard, watched)
        except Exception as error:
            # Starlette raises again what it has answered. An answer that cannot be ended must not look complete.
            if not complete:
                log.warning("answer cut off", id=request_id, why=type(error).__name__)
                scope.get("dyno.abort", _nothing)()
            if isinstance(error, ConnectionError):
                code = CLIENT_GONE
            elif not complete:
                code = SERVER_FAILED
        else:
            code = code if complete else CLIENT_GONE  # nobody else ends an answer early
        finally:
            self._observer.closed("rest")
            self._observer.answered("rest", _template(scope), str(code))


def _template(scope: Scope) -> str:
    """The route's path as it was declared: a label may not hold what a caller wrote."""
    return getattr(scope.get("route"), "path", UNKNOWN)


def _nothing() -> None:
    pass
