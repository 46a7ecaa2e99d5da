"""The OpenAPI document of the REST port: routes and shapes as they are, limits as they are set, roles as the table has
them. The server does not serve it; `make docs` writes it to docs/openapi.json."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.limits import Limits
from server.transport.auth.access import Standing
from server.transport.auth.table import ACCESS
from server.transport.rest.openapi.answers import Error
from server.transport.rest.openapi.errors import ANYWHERE, GUARDED, responses
from server.transport.rest.openapi.fields import Told, fields
from server.transport.rest.openapi.operations import Operation, operations

ABOUT = (
    "One engine for any attention and mixture of experts. The routes under /v1 are those that clients of OpenAI and "
    "vLLM know; the object `dyno` in a body asks what the request cost. Every optional field also takes null; a field "
    "that is not known is refused with 400 and its name."
)
REFERENCE = "#/components/schemas/{model}"
HEADERS = {
    "x-request-id": ("The caller's own id where the request had a valid one, else the server's.", "string"),
    "retry-after": ("Seconds after which to try again.", "integer"),
    "www-authenticate": ("Bearer.", "string"),
}


def document(limits: Limits) -> dict[str, Any]:
    """OpenAPI 3.1."""
    told = operations(limits)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dyno", "version": importlib.metadata.version("dyno"), "description": ABOUT},
        "servers": [{"url": "http://127.0.0.1:8000"}],
        "paths": _paths(told),
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, where the server has keys. `x-role` names the role it must have.",
                }
            },
            "headers": {
                name: {"description": text, "schema": {"type": kind}} for name, (text, kind) in HEADERS.items()
            },
            "schemas": dict(sorted(_schemas(told, limits).items())),
        },
    }


def _paths(told: dict[str, Operation]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route, operation in told.items():
        method, path = route.split()
        paths.setdefault(path.replace(":path", ""), {})[method.lower()] = _operation(route, operation)
    return paths


def _operation(route: str, operation: Operation) -> dict[str, Any]:
    access = ACCESS[route]
    guarded = () if access is Standing.OPEN else GUARDED
    method, path = route.split()
    words = [method.lower(), *path.replace(":path", "").strip("/").replace("{", "").replace("}", "").split("/")]
    data: dict[str, Any] = {"operationId": "_".join(words), "tags": [operation.tag], "summary": operation.summary}
    if operation.about:
        data["description"] = operation.about
    data |= {"security": [] if access is Standing.OPEN else [{"key": []}, {}], "x-role": access.value}
    if operation.parameters:
        data["parameters"] = list(operation.parameters)
    if operation.body is not None:
        data["requestBody"] = {"required": True, "content": {"application/json": _body(operation)}}
    success = _success(operation)
    data["responses"] = {"200": success, **responses((*operation.errors, *guarded, *ANYWHERE))}
    if operation.accepted:
        data["responses"]["202"] = success
    return data


def _body(operation: Operation) -> dict[str, Any]:
    assert operation.body is not None
    examples = {title: {"summary": title, "value": value} for title, value in operation.examples.items()}
    return {"schema": _reference(operation.body), "examples": examples}


def _success(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": _reference(operation.answer)}
    if operation.events is not None:
        text = "Each event is `data: ` and this object in JSON; the last one is `data: [DONE]`, or an error without it."
        content["text/event-stream"] = {"schema": _reference(operation.events) | {"description": text}}
    if not content:
        content |= {media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")}
    headers = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
    return {"description": "Success.", "headers": headers, "content": content}


def _reference(shape: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=shape.__name__)}


# ------------------------------------------------------------------------------------------ schemas


def _schemas(told: dict[str, Operation], limits: Limits) -> dict[str, Any]:
    taken = {op.body for op in told.values() if op.body is not None}
    given = {shape for op in told.values() for shape in (op.answer, op.events) if shape is not None} | {Error}
    known = fields(limits)
    bodies = _defined(taken, "validation")
    for name, schema in bodies.items():
        for key, shape in schema.get("properties", {}).items():
            schema["properties"][key] = _with(shape, known.get(name, {}).get(key) or known[""][key])
    return {name: _plain(schema) for name, schema in {**bodies, **_defined(given, "serialization")}.items()}


def _defined(shapes: set[type[BaseModel]], mode: Any) -> dict[str, Any]:
    ordered = sorted(shapes, key=lambda shape: shape.__name__)
    _, made = models_json_schema([(shape, mode) for shape in ordered], ref_template=REFERENCE)
    found: dict[str, Any] = made["$defs"]
    return found


def _with(shape: dict[str, Any], told: Told) -> dict[str, Any]:
    """The shape with what is told of it; bounds go to the one type that is not null."""
    if told.keys() & {"anyOf", "enum", "type"}:
        kept = {} if "anyOf" in told or "type" not in shape or "type" in told else {"type": shape["type"]}
        return kept | told
    spoken = {key: value for key, value in told.items() if key in ("description", "default")}
    bounds = {key: value for key, value in told.items() if key not in spoken}
    rest = {key: value for key, value in shape.items() if key != "default"}
    if "anyOf" in rest:
        kinds = [kind if kind == {"type": "null"} else kind | bounds for kind in rest.pop("anyOf")]
        return {"anyOf": kinds, **rest, **spoken}
    return rest | bounds | spoken


def _plain(schema: Any) -> Any:
    """Without the titles that pydantic makes of names."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    return [_plain(value) for value in schema] if isinstance(schema, list) else schema
