"""The tree of errors as HTTP: one table of statuses, and OpenAI's body for every one of them."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from server.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelExists,
    ModelNotFound,
    PermissionDenied,
    QueueFull,
    RequestNotFound,
    ServiceError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    entry_of,
    shown,
)
from server.transport.faults import internal_error


class RouteNotFound(ServiceError):
    code = "not_found"


class MethodNotAllowed(ServiceError):
    code = "method_not_allowed"


class BodyTimeout(ServiceError):
    code = "body_timeout"


class BodyTooLarge(ServiceError):
    code = "body_too_large"


class UnsupportedMediaType(ServiceError):
    code = "unsupported_media_type"


STATUS: dict[type[ServiceError], tuple[int, str]] = {
    InvalidRequest: (400, "invalid_request_error"),
    Unauthenticated: (401, "authentication_error"),
    PermissionDenied: (403, "permission_error"),
    ModelNotFound: (404, "not_found_error"),
    RequestNotFound: (404, "not_found_error"),
    RouteNotFound: (404, "not_found_error"),
    MethodNotAllowed: (405, "invalid_request_error"),
    BodyTimeout: (408, "invalid_request_error"),
    ModelExists: (409, "invalid_request_error"),
    BodyTooLarge: (413, "invalid_request_error"),
    UnsupportedMediaType: (415, "invalid_request_error"),
    QueueFull: (429, "rate_limit_error"),
    TooManyRequests: (429, "rate_limit_error"),
    Cancelled: (499, "invalid_request_error"),
    InternalError: (500, "server_error"),
    Unavailable: (503, "server_error"),
    DeadlineExceeded: (504, "server_error"),
}


def status_of(error: ServiceError) -> tuple[int, str]:
    """HTTP status and OpenAI's error type."""
    return entry_of(STATUS, type(error))


def error_body(error: ServiceError) -> dict[str, Any]:
    body = {"message": error.message, "type": status_of(error)[1], "param": error.param, "code": error.code}
    return {"error": body}


def error_response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, BodyTimeout):
        headers["connection"] = "close"
    body = orjson.dumps(error_body(error))
    return Response(body, status_of(error)[0], headers, media_type="application/json")


async def on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router raises: nothing at this path, or not with this method."""
    assert isinstance(error, HTTPException)
    path = shown(request.url.path)
    if error.status_code == 405:
        refusal: ServiceError = MethodNotAllowed(f"{shown(request.method)} is not offered at {path}")
    else:
        refusal = RouteNotFound(f"there is nothing at {path}")
    return error_response(refusal, dict(error.headers or {}))


async def on_bug(request: Request, error: Exception) -> Response:
    if isinstance(error, ConnectionError):  # the client's doing, and nobody reads this response
        return Response(status_code=500)
    return error_response(internal_error(request.state.request_id, error))
