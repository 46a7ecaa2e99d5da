"""Reading a request's body: bounded in size and time, checked, and turned into one of the shapes of `schema`."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from server.errors import Cancelled, InvalidRequest, InvalidValue, MissingValue, UnknownField, UnsupportedField, shown
from server.limits import Limits
from server.transport.rest.errors import BodyTimeout, BodyTooLarge, UnsupportedMediaType
from server.transport.rest.strictjson import read_object

Shape = TypeVar("Shape", bound=BaseModel)

_DUE = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}
"""What a kind of pydantic's errors asks for, in the words of JSON and not in Python's."""


async def read_body(request: Request, shape: type[Shape], limits: Limits) -> Shape:
    """The body as `shape`. Raises ServiceError."""
    _check_headers(request, limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            raw = await _read(request, limits)
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise Cancelled("the client left before its request was complete") from None
    return shaped(read_object(raw, limits), shape)


def shaped(data: dict[str, Any], shape: type[Shape]) -> Shape:
    """What JSON holds as `shape`. Raises InvalidRequest, in JSON's words."""
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise _refusal(error) from None


def _check_headers(request: Request, limits: Limits) -> None:
    media, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    if media != "application/json" or not set(parameters) <= {"charset=utf-8", 'charset="utf-8"', ""}:
        got = shown(request.headers.get("content-type", "nothing"))
        raise UnsupportedMediaType(f"content-type must be application/json, in UTF-8; got {got}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"content-encoding must be identity, got {shown(encoding)}")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise _too_large(limits)


async def _read(request: Request, limits: Limits) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.body_bytes:
            raise _too_large(limits)
    return bytes(body)


def _too_large(limits: Limits) -> BodyTooLarge:
    return BodyTooLarge(f"the body may have at most {limits.body_bytes} bytes")


def _refusal(error: ValidationError) -> InvalidRequest:
    """The first thing that is wrong, with the path to it."""
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        return UnknownField(path)
    if first["type"] == "missing":
        return MissingValue(f"{path} is needed", param=path)
    if first["type"] == "unsupported":
        name = ".".join(filter(None, (path, first["ctx"].get("field"))))
        return UnsupportedField(f"{name} {first['msg']}", param=name)
    # What is left is ours (of the readers of `schema`) or a list of the values that may be.
    due = _DUE.get(first["type"]) or first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return InvalidValue(f"{path} must be {due}, got {shown(first['input'])}", param=path)
