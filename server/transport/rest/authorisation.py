"""Between the watch and the routes: nobody gets through to a route that the table does not give them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match

from server.errors import ServiceError
from server.transport.auth.access import Access, Authoriser, Standing
from server.transport.auth.table import ACCESS
from server.transport.rest.errors import error_response
from server.transport.watch import App, Receive, Scope, Send


class Authorisation:
    """Middleware: puts the caller's `tenant` into the scope's state, or answers itself."""

    def __init__(self, app: App, routes: Sequence[BaseRoute], authoriser: Authoriser) -> None:
        """`routes`: those of `app`, as it looks them up itself."""
        self._app = app
        self._routes = routes
        self._authoriser = authoriser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope["state"]["tenant"] = self._authoriser.admit(_credentials(scope), self._needed(scope))
        except ServiceError as error:
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


def _credentials(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"authorization"]
