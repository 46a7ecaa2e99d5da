"""The REST application: FastAPI routes, our own bodies and errors, and nobody who may not."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from server.errors import ServiceError
from server.service import Phase
from server.tally import Door
from server.transport.auth.access import Authoriser
from server.transport.rest.admin import AdminRoutes
from server.transport.rest.authorisation import Authorisation
from server.transport.rest.errors import on_bug, on_http_exception, on_service_error
from server.transport.rest.middleware import Outermost
from server.transport.rest.routes import Routes


def routed(routes: Routes, admin: AdminRoutes) -> FastAPI:
    """The application alone, open to everybody."""
    app = FastAPI(
        title="Dyno",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={ServiceError: on_service_error, HTTPException: on_http_exception, Exception: on_bug},
    )
    # Not include_router: that would put the routes where nobody who asks for `app.routes` sees them.
    app.router.routes.extend([*routes.router().routes, *admin.router().routes])
    return app


def rest_application(
    routes: Routes,
    admin: AdminRoutes,
    door: Door,
    authoriser: Authoriser,
    *,
    from_this_machine: bool,
) -> ASGIApp:
    """The ASGI application, guarded and counted. `from_this_machine`: it listens on loopback and asks for no keys."""
    app = routed(routes, admin)
    service = routes.service
    guarded = Authorisation(app, app.routes, authoriser, from_this_machine=from_this_machine)
    seconds = service.limits.stalled_write_seconds
    return Outermost(guarded, door, service.clock, seconds, lambda: service.phase is Phase.DRAINING)
