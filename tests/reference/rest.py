"""docs/rest.md: the OpenAPI document as a page for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from server.limits import Limits
from server.transport.rest.openapi.errors import BEFORE_ROUTES, MEANING, status_and_type
from server.transport.rest.openapi.fields import NO_EFFECT, NOT_OFFERED

METHODS = ("get", "post")
ORDER = ("Generation", "Text and models", "Operation", "Administration")

INTRODUCTION = """\
# REST

This page is made from the server's OpenAPI document, [openapi.json](openapi.json), by `make docs`: every path, field,
limit and error. How the fields work together is told in [requests.md](requests.md), what a request costs in
[telemetry.md](telemetry.md); programs that call it are in [examples](examples), clients that are known to work in
[clients.md](clients.md). The same over gRPC: [grpc.md](grpc.md). Keys, roles and TLS are told in
[security.md](security.md), what operators do in [administration.md](administration.md).

Where the server has API keys, every call but those of health needs one: `authorization: Bearer KEY`. Without keys the
header is ignored. Bodies are JSON in UTF-8, `content-type: application/json`, not compressed. Every optional field
also takes `null`; a field that is not known is refused with its name. An integer is written as one: `4.0` is refused.

Every answer has the header `x-request-id`: the caller's own where the request had one of 1 to 64 letters, digits, `-`
and `_`, else the server's id.
"""

STREAMS = """\
## Streams

With `"stream": true` an answer is a list of server-sent events, `data: {…}` and an empty line each. Nothing is sent
before the first token, so that what fails until then has a status of its own. What fails later ends the stream with
`data: {"error": {…}}`. Only a complete stream ends with `data: [DONE]`. With `stream_options.include_usage` the event
before it has `"choices": []` and the usage. The texts of all events put together are the text of the whole answer.
"""


def page(document: dict[str, Any], limits: Limits) -> str:
    """The whole page."""
    return "\n".join(
        [
            INTRODUCTION,
            *_contents(document),
            *_operations(document),
            STREAMS,
            *_errors(),
            *_arrival(limits),
            *_objects(document["components"]["schemas"]),
        ]
    )


def _each(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def _contents(document: dict[str, Any]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for method, path, operation in _each(document):
        yield f"| [`{method} {path}`](#{anchor(f'{method} {path}')}) | {operation['summary']} |"
    yield ""


def _operations(document: dict[str, Any]) -> Iterator[str]:
    for tag in ORDER:
        yield f"## {tag}\n"
        for method, path, operation in _each(document):
            if tag in operation["tags"]:
                yield from _operation(method, path, operation, document["components"]["schemas"])


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield f"### {method} {path}\n"
    about = operation.get("description", "")
    yield f"{operation['summary']}. {about}".strip() + f" {_who(operation['x-role'])}\n"
    for parameter in operation.get("parameters", ()):
        yield f"- `{parameter['name']}` ({parameter['in']}, {kind(parameter['schema'])}): {parameter['description']}"
    if "parameters" in operation:
        yield ""
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        yield from _table(schemas[_name(content["schema"])])
        for example in content["examples"].values():
            yield from (f"{example['summary']}:\n", *_curl(method, path, example["value"]))
    else:
        yield from _curl(method, path, None)
    yield from _answers(operation["responses"])


def _who(role: str) -> str:
    return {"open": "Open to everybody.", "key": "Needs any API key."}.get(role, f"Needs the role `{role}`.")


def _curl(method: str, path: str, body: dict[str, Any] | None) -> Iterator[str]:
    path = path.replace("{name}", "tales-moe")
    yield "```console"
    if body is None:
        yield f"$ curl -s http://127.0.0.1:8000{path}"
    else:
        flags = "-sN" if body.get("stream") else "-s"
        yield f"$ curl {flags} http://127.0.0.1:8000{path} -H 'content-type: application/json' -d '"
        yield f"  {json.dumps(body)}'"
    yield "```\n"


def _answers(responses: dict[str, Any]) -> Iterator[str]:
    for status, response in sorted(responses.items()):
        if status.startswith("2"):
            kinds = [f"`{media}`: {kind(content['schema'])}" for media, content in response["content"].items()]
            yield f"- **{status}** {'; '.join(kinds)}"
        else:
            yield f"- **{status}** {response['description']}"
    yield ""


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield 'The body of every error is `{"error": {"message": …, "type": …, "param": …, "code": …}}`, on every path.\n'
    yield from ("| status | `code` | `type` | |", "|---|---|---|---|")
    rows = [(*status_and_type(kind), kind.code, meaning) for kind, meaning in MEANING.items()]
    rows += [(status, "invalid_request_error", code, text) for code, (status, text) in BEFORE_ROUTES.items()]
    for status, word, code, meaning in sorted(rows):
        yield f"| {status} {_phrase(status)} | `{code}` | `{word}` | {meaning} |"
    yield ""


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase


def _arrival(limits: Limits) -> Iterator[str]:
    """What is bounded before any field is looked at."""
    yield "## Limits of what arrives\n"
    yield from ("| what | at most |", "|---|--:|")
    rows = {
        "body": f"{limits.body_bytes:,} bytes, {limits.body_chunks:,} chunks, {limits.body_seconds:g} s",
        "request line": f"{limits.request_line_bytes:,} bytes",
        "head": f"{limits.head_bytes:,} bytes, {limits.head_count} headers, {limits.head_seconds:g} s",
        "nesting of JSON": f"{limits.json_depth} levels",
        "keys of a JSON object": f"{limits.json_keys}; of `logit_bias`, {limits.logit_bias}",
        "connections": f"{limits.connections:,}",
        "requests that wait": f"{limits.queue}, for {limits.queue_seconds:g} s",
        "a whole request": f"{limits.request_seconds:g} s",
        "a write that nobody reads": f"{limits.stalled_write_seconds:g} s",
        "events that wait behind such a write": f"{limits.unsent_events}",
        "watchers of routing": f"{limits.watchers}",
        "packed routing of single tokens": f"{limits.routing_bytes:,} bytes an answer",
    }
    yield from (f"| {what} | {most} |" for what, most in rows.items())
    yield ""


def _objects(schemas: dict[str, Any]) -> Iterator[str]:
    yield "## Objects\n"
    for name, schema in schemas.items():
        if not name.endswith("Body") or name == "MessageBody":
            yield f"### {name}\n"
            yield from ([schema["description"].replace("\n", " ") + "\n"] if "description" in schema else [])
            yield from _table(schema)


def _table(schema: dict[str, Any]) -> Iterator[str]:
    needed = schema.get("required", ())
    if not schema.get("properties"):
        yield "No fields.\n"
        return
    yield from ("| field | type | default | |", "|---|---|---|---|")
    for field, shape in sorted(schema["properties"].items(), key=lambda one: _place(one[0] in needed, one[1])):
        default = "needed" if field in needed else _default(shape)
        yield f"| `{field}` | {kind(shape)} | {default} | {shape.get('description', '')} |"
    yield ""


def _place(needed: bool, shape: dict[str, Any]) -> int:
    """First what is needed, last what changes nothing and what is refused."""
    told = shape.get("description", "")
    return -1 if needed else 1 if told == NO_EFFECT else 2 if told == NOT_OFFERED else 0


def _default(shape: dict[str, Any]) -> str:
    return "" if shape.get("default") is None else f"`{json.dumps(shape['default'])}`"


def kind(schema: dict[str, Any]) -> str:
    """A schema in a few words; null is left out, for it is nearly everywhere."""
    if "$ref" in schema:
        name = _name(schema)
        return f"[{name}](#{anchor(name)})"
    if "anyOf" in schema:
        return "; or ".join(kind(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    types = schema.get("type", "anything")
    word = " or ".join(one for one in types if one != "null") if isinstance(types, list) else types
    if "items" in schema:
        word = f"array of ({inner})" if "," in (inner := kind(schema["items"])) else f"array of {inner}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        word = f"object of ({kind(values)})"
    return word + "".join(f", {bound}" for bound in _bounds(schema))


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        yield f"above {_number(schema['exclusiveMinimum'])} to {_number(high)}"
    elif low is not None and high is not None:
        yield f"{_number(low)} to {_number(high)}"
    elif low is not None:
        yield f"from {_number(low)}"
    for key, unit in {"Length": "characters", "Items": "entries", "Properties": "entries"}.items():
        least, most = schema.get(f"min{key}"), schema.get(f"max{key}")
        if most is not None:
            yield f"{least} to {most:,} {unit}" if least else f"at most {most:,} {unit}"
        elif least is not None:
            yield f"at least {least}"


def _number(value: float) -> str:
    for bits in (31, 40, 63):
        if abs(value) == 2**bits:
            return f"{'−' if value < 0 else ''}2^{bits}"
        if value == 2**bits - 1:
            return f"2^{bits} − 1"
    return f"{value:g}".replace("-", "−")


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def anchor(heading: str) -> str:
    """How GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
