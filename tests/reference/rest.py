"""docs/rest.md: the OpenAPI document as a page for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from server.limits import Limits
from server.transport.rest.openapi.errors import ANYWHERE, BEFORE_ROUTES, GUARDED, MEANING, status_and_type
from server.transport.rest.openapi.fields import NO_EFFECT, NOT_OFFERED, fields

METHODS = ("get", "post")
ORDER = ("Generation", "Text and models", "Operation", "Administration")
GENERATING = ("CompletionBody", "ChatBody")
BOTH = "Fields of both"
ASKED = frozenset(fields(Limits()))  # shapes of what is sent; the others are of answers
COMMON = frozenset(f"`{kind.code}`" for kind in (*GUARDED, *ANYWHERE))

INTRODUCTION = """\
# REST

This page is made from the server's OpenAPI document, [openapi.json](openapi.json), by `make docs`: every path, field,
limit and error. How the fields work together is described in [requests.md](requests.md), what a request costs in
[telemetry.md](telemetry.md); programs that call it are in [examples](examples), clients that are known to work in
[clients.md](clients.md). The same over gRPC: [grpc.md](grpc.md). Keys, roles and TLS are described in
[security.md](security.md), administration in [administration.md](administration.md).

Where the server has API keys, every call but those of health needs one: `authorization: Bearer KEY`. Without keys the
header is ignored. Bodies are JSON in UTF-8, `content-type: application/json`, not compressed. Every optional field
also takes `null`; an unknown field is refused by name. Integers have no fraction: `4.0` is refused.

Besides the errors listed with it, every call that needs a key or a role can answer **401** `invalid_api_key`, **403**
`permission_denied` and **429** `too_many_requests`, and every call **500** `internal_error`.

Every answer has the header `x-request-id`: the caller's own where the request had one of 1 to 64 letters, digits, `-`
and `_`, else the server's id.
"""

STREAMS = """\
## Streams

With `"stream": true` an answer is a list of server-sent events, each `data: {…}` and an empty line. Nothing is sent
before the first token, so a failure before it has an HTTP status of its own. A later one ends the stream with
`data: {"error": {…}}`. Only a complete stream ends with `data: [DONE]`. With `stream_options.include_usage` the event
before it has `"choices": []` and the usage. The texts of all events, joined, are the text of the whole answer.
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
        if tag == "Generation":
            yield from _both(document["components"]["schemas"])
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
        yield from _body(_name(content["schema"]), schemas)
        for example in content["examples"].values():
            yield from (f"{example['summary']}:\n", *_curl(method, path, example["value"]))
    else:
        yield from _curl(method, path, None)
    yield from _answers(operation["responses"])


def _shared(schemas: dict[str, Any]) -> dict[str, Any]:
    """The fields that mean the same in completions and in chats."""
    completion, chat = (schemas[name]["properties"] for name in GENERATING)
    return {field: shape for field, shape in completion.items() if chat.get(field) == shape}


def _both(schemas: dict[str, Any]) -> Iterator[str]:
    yield f"### {BOTH}\n"
    yield "Of `/v1/completions` and `/v1/chat/completions`.\n"
    yield from _table({"properties": _shared(schemas)}, asked=True)


def _body(name: str, schemas: dict[str, Any]) -> Iterator[str]:
    schema = schemas[name]
    if name in GENERATING:
        shared = _shared(schemas)
        own = {field: shape for field, shape in schema["properties"].items() if field not in shared}
        yield f"Takes [the fields of both](#{anchor(BOTH)}) and:\n"
        schema = schema | {"properties": own}
    yield from _table(schema, asked=True)


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
    listed = (
        (status, [code for code in response["description"].split(", ") if code not in COMMON])
        for status, response in sorted(responses.items())
        if not status.startswith("2")
    )
    if errors := "; ".join(f"**{status}** {', '.join(codes)}" for status, codes in listed if codes):
        yield f"- Errors: {errors}"
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
        "requests waiting for one model": f"{limits.queue} (`--queue`)",
        "their wait": f"{limits.queue_seconds:g} s (`--queue-seconds`)",
        "a whole request": f"{limits.request_seconds:g} s (`--request-seconds`)",
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
            yield from _table(schema, asked=name in ASKED)


def _table(schema: dict[str, Any], *, asked: bool) -> Iterator[str]:
    """`asked`: of a request, whose optional fields all take null; else of an answer."""
    required, apart = schema.get("required", ()), {NO_EFFECT: list[str](), NOT_OFFERED: list[str]()}
    if not schema.get("properties"):
        yield "No fields.\n"
        return
    rows = []
    for field, shape in sorted(schema["properties"].items(), key=lambda one: one[0] not in required):
        if (about := shape.get("description", "")) in apart:
            apart[about].append(f"`{field}`")
        elif asked:
            rows.append(
                f"| `{field}` | {kind(shape)} | {'required' if field in required else _default(shape)} | {about} |"
            )
        else:
            rows.append(f"| `{field}` | {kind(shape, null=True)} | {'always' if field in required else ''} | {about} |")
    if rows:
        yield from (f"| field | type | {'default' if asked else 'present'} | |", "|---|---|---|---|", *rows, "")
    yield from (f"{about.removesuffix('.')}: {', '.join(names)}.\n" for about, names in apart.items() if names)


def _default(shape: dict[str, Any]) -> str:
    return "" if shape.get("default") is None else f"`{json.dumps(shape['default'])}`"


def kind(schema: dict[str, Any], *, null: bool = False) -> str:
    """A schema in a few words; `null`: that it may be null is said, too."""
    if "$ref" in schema:
        name = _name(schema)
        return f"[{name}](#{anchor(name)})"
    if "anyOf" in schema:
        kinds = [kind(one) for one in schema["anyOf"] if one != {"type": "null"}]
        return "; or ".join([*kinds, "null"] if null and len(kinds) < len(schema["anyOf"]) else kinds)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    types = schema.get("type", "anything")
    word = " or ".join(one for one in types if one != "null" or null) if isinstance(types, list) else types
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
    for bits in (31, 63):
        if abs(value) == 2**bits:
            return f"{'−' if value < 0 else ''}2^{bits}"
        if value == 2**bits - 1:
            return f"2^{bits} − 1"
    text = f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return text.replace("-", "−")


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def anchor(heading: str) -> str:
    """How GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
