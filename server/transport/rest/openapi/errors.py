"""Every word that an error's `code` can be, with its status and what it means."""

from __future__ import annotations

from typing import Any, TypeAlias

from server import errors
from server.administration.administration import LoadFailed
from server.errors import ServiceError
from server.transport.rest.errors import (
    STATUS,
    BodyTimeout,
    BodyTooLarge,
    MethodNotAllowed,
    RouteNotFound,
    UnsupportedMediaType,
)
from server.transport.rest.strictjson import MalformedJson
from server.watching import TooManyWatchers

Kind: TypeAlias = type[ServiceError]

MEANING: dict[Kind, str] = {
    MalformedJson: "The body is not one JSON object in UTF-8, is nested too deep, or has too many keys.",
    errors.InvalidValue: "A field has a value that it may not have.",
    errors.MissingValue: "A required field is missing.",
    errors.UnknownField: "There is no such field.",
    errors.UnsupportedField: "A field that other servers have and this one does not support.",
    errors.ContextLengthExceeded: "Prompt and output do not fit together into the model's context or cache.",
    LoadFailed: "The model could not be loaded.",
    errors.Unauthenticated: "No API key, or an unknown one. Only where the server has keys.",
    errors.PermissionDenied: "The API key lacks the role; on REST without keys, the `Host` is not this machine.",
    errors.ModelNotFound: "No model of that name is served.",
    errors.RequestNotFound: "No request of that id is in flight.",
    RouteNotFound: "There is nothing at this path.",
    MethodNotAllowed: "The path is right, the method is not; `allow` has those that are.",
    BodyTimeout: "The body did not arrive in time.",
    errors.ModelExists: "Another model has that name.",
    BodyTooLarge: "The body is too large.",
    UnsupportedMediaType: "The body is not `application/json` in UTF-8, or is compressed.",
    errors.QueueFull: "Too many requests are waiting; `retry-after` says when to try again.",
    errors.TooManyRequests: "This API key has too many generations in flight, or too many calls had no valid key.",
    TooManyWatchers: "Too many watchers already.",
    errors.Cancelled: "The request was cancelled, by its caller or by an operator.",
    errors.InternalError: "A fault of the server; the message has only the id to look for in its log.",
    errors.Loading: "Models are still being loaded.",
    errors.Draining: "The server is shutting down.",
    errors.QueueTimeout: "The request waited too long for its turn.",
    errors.EngineDown: "The engine is not running.",
    errors.NoModel: "Every model was unloaded.",
    errors.FormsUntried: "The machine has no descriptors, processes or memory left to try out a form of the answer.",
    errors.DeadlineExceeded: "The request took longer than it may.",
}

BEFORE_ROUTES: dict[str, tuple[int, str]] = {
    "malformed_request": (400, "This is not an HTTP/1.1 request."),
    "too_many_chunks": (400, "The body comes in too many chunks."),
    "head_timeout": (408, "The head did not arrive in time."),
    "uri_too_long": (414, "The request line is too long."),
    "headers_too_large": (431, "There are too many headers, or they are too long."),
}
"""What the protocol itself refuses, and closes the connection. Any path can get these."""

ANYWHERE: tuple[Kind, ...] = (errors.InternalError,)
GUARDED: tuple[Kind, ...] = (errors.Unauthenticated, errors.PermissionDenied, errors.TooManyRequests)
BODY: tuple[Kind, ...] = (
    MalformedJson,
    errors.InvalidValue,
    errors.MissingValue,
    errors.UnknownField,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
)
UNAVAILABLE: tuple[Kind, ...] = (errors.Loading, errors.Draining, errors.EngineDown, errors.NoModel)
ASKING: tuple[Kind, ...] = (*BODY, errors.ModelNotFound, *UNAVAILABLE)
GENERATING: tuple[Kind, ...] = (
    *ASKING,
    errors.UnsupportedField,
    errors.ContextLengthExceeded,
    errors.QueueFull,
    errors.Cancelled,
    errors.QueueTimeout,
    errors.FormsUntried,
    errors.DeadlineExceeded,
)


def status_and_type(kind: Kind) -> tuple[int, str]:
    """HTTP status and OpenAI's error type."""
    return errors.entry_of(STATUS, kind)


def responses(kinds: tuple[Kind, ...]) -> dict[str, Any]:
    """The error responses of an operation, by status, with an example of each code."""
    found: dict[str, Any] = {}
    for kind in sorted(kinds, key=lambda kind: (status_and_type(kind)[0], kind.code)):
        status, word = status_and_type(kind)
        response = found.setdefault(str(status), _response(status))
        examples = response["content"]["application/json"]["examples"]
        error = {"message": MEANING[kind], "type": word, "param": None, "code": kind.code}
        examples[kind.code] = {"summary": MEANING[kind], "value": {"error": error}}
        response["description"] = ", ".join(f"`{code}`" for code in examples)
    return found


def _response(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    headers = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
    if status in (429, 503):
        headers["retry-after"] = {"$ref": "#/components/headers/retry-after"}
    if status == 401:
        headers["www-authenticate"] = {"$ref": "#/components/headers/www-authenticate"}
    return {"headers": headers, "content": {"application/json": {"schema": schema, "examples": {}}}}
