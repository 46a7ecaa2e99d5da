"""The REST application: FastAPI routes, our own bodies and errors."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from server.errors import ServiceError
from server.transport.rest.errors import on_bug, on_http_exception, on_service_error
from server.transport.rest.routes import Routes
from server.transport.watch import App, HttpWatch, TransportObserver


def rest_application(routes: Routes, observer: TransportObserver) -> App:
    """The ASGI application, watched."""
    app = FastAPI(
        title="Dyno",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={ServiceError: on_service_error, HTTPException: on_http_exception, Exception: on_bug},
    )
    app.include_router(routes.router())
    service = routes.service
    return HttpWatch(app, observer, service.clock, service.limits.stalled_write_seconds)
