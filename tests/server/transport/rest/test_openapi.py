"""The OpenAPI document is true: of routes, of answers, and of every bound from both sides."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import server.transport
from server.errors import ForNow, InvalidRequest, ServiceError, Unavailable
from server.limits import Limits
from server.transport.rest.openapi.document import document
from server.transport.rest.openapi.errors import BEFORE_ROUTES, MEANING, status_and_type
from tests.server.kit import Harness, fake_model, running
from tests.server.transport.rest.test_answers import events, get, post

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = document(Limits())
SCHEMAS = DOCUMENT["components"]["schemas"]
MODELS = {"tales-moe": "fake", "tales-dense": "fake", "chat": "chat"}


def validator(name: str) -> Draft202012Validator:
    """Of one shape; what it refers to lies beside it."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema)


def kinds(root: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from kinds(kind)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


async def test_every_route_is_told_and_no_other(server: Harness) -> None:
    app: Any = server.app._http._config.app
    routes = {f"{method} {route.path}" for route in _inner(app).routes for method in route.methods}
    told = {f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item}
    heads = {route for route in routes if route.startswith("HEAD ")}
    assert {route.replace(":path", "") for route in routes - heads} == told
    for route in heads:
        assert "Also HEAD." in DOCUMENT["paths"][route.removeprefix("HEAD ")]["get"]["description"]


def _inner(app: Any) -> Any:
    """The application inside the watch and the guard."""
    while not hasattr(app, "routes"):
        app = app._app
    return app


async def test_every_reference_leads_to_a_sound_schema() -> None:
    for reference in references(DOCUMENT):
        kind, _, name = reference.removeprefix("#/components/").partition("/")
        assert name in DOCUMENT["components"][kind], reference
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


async def test_every_field_is_told_of() -> None:
    silent = [
        f"{name}.{field}"
        for name, schema in SCHEMAS.items()
        for field, shape in schema.get("properties", {}).items()
        if not shape.get("description") and "$ref" not in shape
    ]
    assert silent == []


def files_that_make(*roots: type[ServiceError]) -> list[Path]:
    made = re.compile(rf"(?<!class )\b({'|'.join(root.__name__ for root in roots)})\(")
    return [path for path in Path(server.__path__[0]).rglob("*.py") if made.search(path.read_text())]


async def test_every_error_is_told_of() -> None:
    for module in pkgutil.walk_packages(server.transport.__path__, "server.transport."):
        importlib.import_module(module.name)
    roots = (InvalidRequest, ForNow, Unavailable)
    assert files_that_make(*roots, ServiceError) == [], "these have no meaning of their own"
    found = {kind for kind in kinds(ServiceError) if kind not in roots and kind.__module__.startswith("server.")}
    own = {kind for kind in found if kind.__module__.startswith("server.transport.rpc")}
    assert found - own == set(MEANING)
    assert not BEFORE_ROUTES.keys() & {kind.code for kind in MEANING}
    assert {status_and_type(kind)[1] for kind in MEANING} <= set(SCHEMAS["ErrorDetail"]["properties"]["type"]["enum"])


ANSWERS = [
    ("Completion", "/v1/completions", {"model": "fake", "prompt": "abc", "n": 2}),
    ("Completion", "/v1/completions", {"model": "fake", "prompt": "abc", "echo": True, "logprobs": 2}),
    ("Completion", "/v1/completions", {"model": "fake", "prompt": ["a", "b"], "dyno": {"routing": "tokens"}}),
    ("Completion", "/v1/completions", {"model": "fake", "prompt": "abc", "prompt_logprobs": 1, "max_tokens": 0}),
    ("Completion", "/v1/completions", {"model": "chat", "prompt": "abc", "dyno": {"latency": False}}),
    ("ChatCompletion", "/v1/chat/completions", {"max_tokens": 3, "dyno": {}}),
    ("ChatCompletion", "/v1/chat/completions", {"max_tokens": 3, "logprobs": True, "top_logprobs": 2}),
    ("Tokens", "/tokenize", {"model": "fake", "prompt": "abc"}),
    ("Text", "/detokenize", {"model": "fake", "tokens": [65, 66]}),
]


@pytest.mark.parametrize(("shape", "path", "body"), ANSWERS)
async def test_answers_have_their_shape(server: Harness, shape: str, path: str, body: dict[str, Any]) -> None:
    body = _chatting(body) if "chat/" in path else body
    validator(shape).validate(await post(server, path, **body))


@pytest.mark.parametrize("chat", [False, True])
async def test_events_have_their_shape(server: Harness, chat: bool) -> None:
    path, shape = ("/v1/chat/completions", "ChatChunk") if chat else ("/v1/completions", "CompletionChunk")
    body: dict[str, Any] = {"max_tokens": 4, "logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1}
    body = _chatting(body) if chat else {"model": "fake", "prompt": "abc", **body}
    usage = {"include_usage": True, "continuous_usage_stats": True}
    told = await events(server, path, **body, stream_options=usage, dyno={"routing": "tokens"})
    assert len(told) > 3
    for event in told:
        validator(shape).validate(event)


@pytest.mark.parametrize(
    ("shape", "path"),
    [
        ("ModelList", "/v1/models"),
        ("Model", "/v1/models/fake"),
        ("Status", "/readyz"),
        ("Status", "/livez"),
        ("Version", "/version"),
        ("State", "/debug/state"),
        ("Error", "/nowhere"),
        ("Error", "/v1/models/nobody"),
    ],
)
async def test_what_is_got_has_its_shape(server: Harness, shape: str, path: str) -> None:
    _, answer = await get(server, path)
    validator(shape).validate(answer)


def _chatting(body: dict[str, Any]) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **body}


def examples() -> list[Any]:
    """Every example of a body that generates or turns text."""
    return [
        pytest.param(path, example["value"], id=f"{path} {title}")
        for path, item in DOCUMENT["paths"].items()
        if not path.startswith("/admin") and "requestBody" in item.get("post", {})
        for title, example in item["post"]["requestBody"]["content"]["application/json"]["examples"].items()
    ]


@pytest.mark.parametrize(("path", "body"), examples())
async def test_the_examples_work(server: Harness, path: str, body: dict[str, Any]) -> None:
    shape = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    validator(shape.rpartition("/")[2]).validate(body)
    body = body | {"model": MODELS[body["model"]]}
    async with server.session.post(server.url + path, json=body) as response:
        assert response.status == 200, await response.text()


def bounds(name: str) -> Iterator[tuple[str, Any, bool]]:
    """Field, value, and whether it may be had: both sides of every bound of one shape."""
    for field, shape in SCHEMAS[name]["properties"].items():
        for kind in shape.get("anyOf", [shape]):
            for value, good in _sides(kind):
                yield field, value, good


def _sides(kind: dict[str, Any]) -> Iterator[tuple[Any, bool]]:
    if "exclusiveMinimum" in kind:
        yield from ((kind["exclusiveMinimum"], False), (kind["exclusiveMinimum"] + 1e-9, True))
    if "minimum" in kind:
        yield from ((kind["minimum"], True), (kind["minimum"] - 1, False))
    if "maximum" in kind:
        yield from ((kind["maximum"], True), (kind["maximum"] + 1, False))
    if kind.get("type") == "string" and "maxLength" in kind:
        yield from (("x" * kind["maxLength"], True), ("x" * (kind["maxLength"] + 1), False))
    if kind.get("type") == "array" and "maxItems" in kind:
        item: Any = 65 if kind["items"].get("type") == "integer" else [65] if "items" in kind["items"] else "x"
        yield from (([item] * kind["maxItems"], True), ([item] * (kind["maxItems"] + 1), False))
    for value in kind.get("enum", ()):
        yield value, True


# Their bounds hang on something else: the context, another field, or that the library can read them.
ELSEWHERE = {"max_tokens", "min_tokens", "guided_json", "guided_regex", "guided_grammar", "prompt"}


async def test_every_bound_is_that_of_the_server(server: Harness) -> None:
    tried = 0
    for field, value, good in bounds("CompletionBody"):
        if field in ELSEWHERE:
            continue
        body = {"model": "fake", "prompt": "abc", "max_tokens": 1, field: value}
        body |= {"stop": None} if field != "stop" else {}
        async with server.session.post(f"{server.url}/v1/completions", json=body) as response:
            answer = await response.json()
        assert (response.status == 200) == good, f"{field} {json.dumps(value)[:60]}: {answer}"
        assert validator("CompletionBody").is_valid(body) == good, f"{field} {json.dumps(value)[:60]}"
        if not good:
            assert answer["error"]["param"] == field
            validator("Error").validate(answer)
        tried += 1
    assert tried > 40


async def test_chat_s_own_bounds_are_those_of_the_server(server: Harness) -> None:
    message = {"role": "user", "content": "hi"}
    most = SCHEMAS["ChatBody"]["properties"]["messages"]["maxItems"]
    for body, good in (
        ({"messages": [message] * (most + 1)}, False),
        ({"logprobs": True, "top_logprobs": 20}, True),
        ({"logprobs": True, "top_logprobs": 21}, False),
        ({"messages": [{"role": "developer", "content": "hi"}, message]}, True),
        ({"messages": [{"role": "tool", "content": "hi"}]}, False),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": "hi"}]}]}, False),
    ):
        whole = _chatting({"max_tokens": 1}) | body
        async with server.session.post(f"{server.url}/v1/chat/completions", json=whole) as response:
            assert (response.status == 200) == good, await response.text()
        assert validator("ChatBody").is_valid(whole) == good


async def test_an_operator_s_answers_have_their_shape() -> None:
    async with running(fake_model("fake"), fake_model("slow", sleep=0.01)) as own:

        async def told(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
            async with own.session.request(method, f"{own.url}/admin/v1{path}", json=body) as response:
                responses = DOCUMENT["paths"][f"/admin/v1{path}"][method.lower()]["responses"]
                answer, described = await response.json(), responses[str(response.status)]
                reference = described["content"]["application/json"]["schema"]["$ref"]
                validator(reference.rpartition("/")[2]).validate(answer)
                return answer

        long = {"model": "slow", "prompt": "abc", "max_tokens": 100, "ignore_eos": True, "stream": True}
        async with own.session.post(f"{own.url}/v1/completions", json=long) as stream:
            await stream.content.readline()
            [request] = (await told("GET", "/requests"))["requests"]
            assert await told("POST", "/requests/cancel", {"id": request["id"]}) == {}
            last = [line async for line in stream.content if line.strip()][-1]
            validator("Error").validate(json.loads(last.removeprefix(b"data: ")))
        assert "error" in await told("POST", "/requests/cancel", {"id": request["id"]})
        assert (await told("POST", "/models/load", {"model": "new=late", "detached": True}))["model"]["name"] == "new"
        assert "error" in await told("POST", "/models/load", {"model": "wrong=bad"})
        for field, value, good in bounds("LoadBody"):
            if not good:
                refused = await told("POST", "/models/load", {"model": "other=fake", field: value})
                assert refused["error"]["param"] == field
        assert len((await told("GET", "/models"))["models"]) >= 3
        assert (await told("POST", "/prefix-cache/reset", {}))["models"]
        assert "error" in await told("POST", "/models/unload", {"model": "slow", "drain_seconds": -1})
        assert (await told("POST", "/models/unload", {"model": "slow", "drain_seconds": 1})) == {"ended_requests": 0}
        assert await told("POST", "/drain", {}) == {"requests": 0}


async def test_the_load_of_experts_has_its_shape(server: Harness) -> None:
    low = DOCUMENT["paths"]["/v1/routing"]["get"]["parameters"][1]["schema"]["minimum"]
    async with server.session.get(f"{server.url}/v1/routing?model=fake&interval={low}") as response:
        line = await response.content.readline()
    validator("RoutingLoad").validate(json.loads(line.removeprefix(b"data: ")))
    async with server.session.get(f"{server.url}/v1/routing?model=fake&interval={low / 2}") as response:
        assert response.status == 400
        validator("Error").validate(await response.json())
