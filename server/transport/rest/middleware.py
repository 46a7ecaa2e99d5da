"""What is around every call over REST: an id, a count by code, a bound on stalled writes."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.calllog import Who
from server.tally import UNKNOWN, Door
from server.tenancy import EVERYBODY
from server.transport.ids import given_id, new_id, peer_of
from server.transport.stall import StallGuard

log = structlog.get_logger()

CLIENT_GONE, SERVER_FAILED = 499, 500
CLOSE = (b"connection", b"close")


class Outermost:
    """The outermost middleware: puts `request_id` and `arrived` into the scope's state, x-request-id on the answer, and
    `connection: close` on those of a server that is leaving: the client's next request goes to another one."""

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        clock: Callable[[], float],
        stalled_write_seconds: float,
        leaving: Callable[[], bool],
    ) -> None:
        self._app = app
        self._door = door
        self._clock = clock
        self._stalled_write_seconds = stalled_write_seconds
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = new_id()
        scope["state"] = {"request_id": request_id, "arrived": self._clock()}
        said_id = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
        given = given_id(said_id)
        header = (b"x-request-id", (given or request_id).encode())
        code, complete = CLIENT_GONE, False

        async def said(message: Message) -> None:
            nonlocal code, complete
            if message["type"] == "http.response.start":
                code = message["status"]
                # What still arrives when a connection closes would take the answer with it.
                closes = self._leaving() and not scope.get("dyno.arriving", _nothing)()
                closing = (CLOSE,) if closes and CLOSE not in message["headers"] else ()
                message["headers"] = [*message["headers"], header, *closing]
            else:
                complete = not message.get("more_body", False)
                self._door.moved("sent", len(message.get("body", b"")))
            await guard.write(send(message))

        async def heard() -> Message:
            message = await receive()
            self._door.moved("received", len(message.get("body", b"")))
            return message

        self._door.opened()
        try:
            with StallGuard(self._stalled_write_seconds) as guard:
                scope["dyno.guard"] = guard
                await self._app(scope, heard, said)
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
            self._door.closed()
            self._door.answered(_template(scope), str(code), _who(scope, given))


def _template(scope: Scope) -> str:
    """The route's path as it was declared: a label may not hold what a caller wrote."""
    return getattr(scope.get("route"), "path", UNKNOWN)


def _who(scope: Scope, given: str | None) -> Who:
    tenant, client = scope["state"].get("tenant", EVERYBODY), scope.get("client")
    return Who(scope["state"]["request_id"], given, tenant.name, client and peer_of(*client))


def _nothing() -> None:
    pass
