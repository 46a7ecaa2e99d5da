"""Between the outermost middleware and the routes: nobody gets through to a route that the table does not give them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import PermissionDenied, ServiceError, shown
from server.tenancy import Tenant
from server.transport.auth.access import Access, Authoriser, Standing
from server.transport.auth.table import ACCESS
from server.transport.rest.errors import error_response

HOST = re.compile(r"(?:(?P<name>[^\[\]:]+)|\[(?P<ipv6>[^\]]+)\])(?::\d*)?")


class Authorisation:
    """Middleware: puts the caller's `tenant` into the scope's state, or answers itself."""

    def __init__(
        self, app: ASGIApp, routes: Sequence[BaseRoute], authoriser: Authoriser, *, from_this_machine: bool
    ) -> None:
        """`routes`: those of `app`, as it looks them up itself. `from_this_machine`: that a call comes from here is all
        that lets it in, so that it may not be a web page's."""
        self._app = app
        self._routes = routes
        self._authoriser = authoriser
        self._from_this_machine = from_this_machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            needed = self._needed(scope)
            if self._from_this_machine and needed is not Standing.OPEN:
                _check_host(scope)
            scope["state"]["tenant"] = self._authoriser.admit(_headers(scope, b"authorization"), needed)
        except ServiceError as error:
            if isinstance(error, PermissionDenied):
                scope["state"]["tenant"] = Tenant(error.tenant)  # for the log
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _needed(self, scope: Scope) -> Access | None:
        """What the route asks of its callers. Where there is no route, only those with a key are told so."""
        for route in self._routes:
            match, more = route.matches(scope)
            if match is Match.FULL:
                scope["route"] = more.get("route", route)  # for whoever counts refusals
                return ACCESS.get(f"{scope['method']} {getattr(route, 'path', '')}")
        return Standing.KEY


def _check_host(scope: Scope) -> None:
    """A browser lets a web page call any server under the page's own name, wherever that name leads by now."""
    for host in _headers(scope, b"host"):
        text = host.decode("latin-1")
        if not _is_local(text):
            raise PermissionDenied(
                f"a server without API keys answers only to localhost and addresses of loopback, not to {shown(text)}; "
                "a proxy before it must send such a Host, or give the server keys"
            )


def _is_local(host: str) -> bool:
    found = HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found["name"] or found["ipv6"]
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value for other, value in scope["headers"] if other == name]
