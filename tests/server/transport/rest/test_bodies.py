"""Bodies that are not what REST takes: each gets OpenAI's error, the field at fault, and nothing reaches an engine."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from server.transport.rest.schema import (
    IGNORED,
    IGNORED_IN_MESSAGES,
    UNSUPPORTED,
    ChatBody,
    CompletionBody,
    MessageBody,
)
from tests.server.kit import Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = {"model": "fake", "prompt": "abc", "max_tokens": 2}
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
JSON = {"content-type": "application/json"}

NOT_JSON = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "string": b'"x"',
    "number": b"123",
    "truncated": b'{"model": "fake", "prompt": "a',
    "trailing": b'{"prompt": "a"} x',
    "byte order mark": b'\xef\xbb\xbf{"prompt": "a"}',
    "utf-16": '{"prompt": "a"}'.encode("utf-16"),
    "not utf-8": b'{"prompt": "\xff\xfe"}',
    "half a surrogate": b'{"prompt": "\\ud800"}',
    "half a surrogate as key": b'{"\\ud800": 1}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "Infinity": b'{"prompt": "a", "temperature": -Infinity}',
    "overflow": b'{"prompt": "a", "temperature": 1e400}',
    "long integer": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "deep": b'{"prompt": ' + b"[" * 33 + b"]" * 33 + b"}",
    "very deep": b'{"prompt": ' + b"[" * 100_000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "many keys": json.dumps({str(i): i for i in range(50_000)}).encode(),
    "comment": b'{"prompt": "a" /* no */}',
    "single quotes": b"{'prompt': 'a'}",
}


async def post(server: Harness, path: str, data: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with server.session.post(server.url + path, data=io.BytesIO(data), headers=headers or JSON) as response:
        assert response.headers["content-type"] == "application/json"
        assert "server" not in response.headers
        assert len(response.headers["x-request-id"]) == 24
        return response.status, await response.json()


async def refused(server: Harness, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, answer = await post(server, path, json.dumps(body).encode())
    assert status == 400, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    error: dict[str, Any] = answer["error"]
    return error


@pytest.mark.parametrize("case", NOT_JSON)
async def test_what_is_not_a_json_object_is_refused(case: str, server: Harness) -> None:
    status, answer = await post(server, "/v1/completions", NOT_JSON[case])
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert len(answer["error"]["message"]) < 300


async def test_a_key_given_twice_is_refused(server: Harness) -> None:
    status, answer = await post(server, "/v1/completions", b'{"prompt": "a", "seed": 1, "seed": 2}')
    assert (status, answer["error"]["param"]) == (400, "seed")


async def test_nesting_up_to_the_limit_is_read(server: Harness) -> None:
    deep: Any = "x"
    for _ in range(30):
        deep = [deep]
    error = await refused(server, "/v1/completions", GOOD | {"prompt": deep})
    assert error["param"] == "prompt", "too deep for a prompt, not for JSON"


WRONG: dict[str, list[Any]] = {
    "string": [1, True, [], {}],
    "integer": ["1", 1.5, True, [], {}, 1e308],
    "number": ["1", True, [], {}],
    "boolean": [0, 1, "true", "yes", [], {}],
    "array": [1, True, {}, "x"],
    "object": [1, True, [], "x"],
}


def wrong_values(shape: type[CompletionBody | ChatBody]) -> list[tuple[str, Any]]:
    """(field, value of a type that it may not have) for every field, from its schema."""
    properties = shape.model_json_schema()["properties"]
    found = []
    for name, schema in properties.items():
        if name in UNSUPPORTED or name in ("stop", "logit_bias", "prompt", "messages"):
            continue
        kinds: set[str] = set()
        for option in schema.get("anyOf", [schema]):
            kind = option.get("type", "object")
            kinds |= {kind} if isinstance(kind, str) else {*kind}
        candidates = WRONG[min(kinds - {"null"})]
        found += [(name, value) for value in candidates if all(value in WRONG[kind] for kind in kinds - {"null"})]
    return found


@pytest.mark.parametrize(("field", "value"), wrong_values(CompletionBody), ids=str)
async def test_a_value_of_another_type_is_refused(field: str, value: Any, server: Harness) -> None:
    error = await refused(server, "/v1/completions", GOOD | {field: value})
    assert error["param"] == field
    assert field in error["message"]


@pytest.mark.parametrize(("field", "value"), [x for x in wrong_values(ChatBody) if "logprobs" in x[0] or "max" in x[0]])
async def test_a_value_of_another_type_is_refused_in_chat(field: str, value: Any, server: Harness) -> None:
    assert (await refused(server, "/v1/chat/completions", CHAT | {field: value}))["param"] == field


@pytest.mark.parametrize("field", ["max_tokens", "min_tokens", "top_k", "seed", "n", "logprobs"])
@pytest.mark.parametrize("value", [-(2**63) - 1, 2**63, 2**64, 10**400])
async def test_an_integer_of_any_size_is_refused_in_words(field: str, value: int, server: Harness) -> None:
    error = await refused(server, "/v1/completions", GOOD | {field: value})
    assert error["param"] == field
    assert len(error["message"]) < 300


@pytest.mark.parametrize("prompt", [None, 1, {}, [1, "a"], ["a", 1], [[1], "a"], [True], [1.5], [[1.0]], [None]])
async def test_a_prompt_of_another_shape_is_refused(prompt: Any, server: Harness) -> None:
    error = await refused(server, "/v1/completions", GOOD | {"prompt": prompt})
    assert error["param"] == "prompt"
    assert "list of token ids" in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop", 1),
        ("stop", [1]),
        ("stop", {}),
        ("logit_bias", [1]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": "x"}),
        ("logit_bias", {"1": 1, "01": 2}),
    ],
)
async def test_stop_and_bias_of_another_shape_are_refused(field: str, value: Any, server: Harness) -> None:
    assert (await refused(server, "/v1/completions", GOOD | {field: value}))["param"] == field


@pytest.mark.parametrize("bias", [10**310, -(10**310), 2**64, 10**400])
async def test_a_bias_of_any_size_is_refused_in_words(bias: int, server: Harness) -> None:
    error = await refused(server, "/v1/completions", GOOD | {"logit_bias": {"1": bias}})
    assert error["param"] == "logit_bias" and "between -100 and 100" in error["message"]
    assert len(error["message"]) < 300


@pytest.mark.parametrize("most", [2**64, -(2**64), 10**30, 10**400])
async def test_integers_of_any_size_may_stand_in_a_schema(most: int, server: Harness) -> None:
    schema = {"type": "integer", "minimum": -7, "maximum": most} if most > 0 else {"type": "integer", "minimum": most}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for form in ({"guided_json": schema}, {"response_format": named}, {"structured_outputs": {"json": schema}}):
        status, answer = await post(server, "/v1/completions", json.dumps(GOOD | form).encode())
        assert status in (200, 400), answer
        texts = GOOD | {"guided_json": json.dumps(schema)}
        assert status == (await post(server, "/v1/completions", json.dumps(texts).encode()))[0], "as its text"


@pytest.mark.parametrize("name", ["prmpt", "Temperature", "chat_template", "documents", "a\nb", "__proto__", "x" * 500])
async def test_an_unknown_field_is_refused_by_name(name: str, server: Harness) -> None:
    error = await refused(server, "/v1/completions", GOOD | {name: "x"})
    assert error["code"] == "unknown_field"
    assert error["param"].startswith(name[:3].replace("\n", "\\n"))
    assert "\n" not in error["message"] and len(error["message"]) < 300


@pytest.mark.parametrize("body", [{}, {"model": "fake"}, {"prompt": None}])
async def test_a_prompt_is_needed(body: dict[str, Any], server: Harness) -> None:
    assert (await refused(server, "/v1/completions", body))["param"] == "prompt"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "detail": "low"}]}, "messages[0].content"),
        ({"role": "user", "content": "x", "chat_template": "{{ 1 }}"}, "messages[0].chat_template"),
        ("x", "messages[0]"),
    ],
    ids=str,
)
async def test_a_message_of_another_shape_is_refused(message: Any, param: str, server: Harness) -> None:
    assert (await refused(server, "/v1/chat/completions", CHAT | {"messages": [message]}))["param"] == param


IMAGE = {"type": "image_url", "image_url": {"url": "http://localhost/x"}}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "assistant", "tool_calls": [{}]}, "tool_calls"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "tool_calls"),
        ({"role": "tool", "content": "x", "tool_call_id": "a"}, "tool_call_id"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "function_call"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio"),
        ({"role": "user", "content": "x", "images": ["aGk="]}, "images"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}, "content"),
    ],
    ids=str,
)
async def test_what_is_not_offered_in_a_message_is_named_before_what_is_wrong(
    message: Any, field: str, server: Harness
) -> None:
    turns = [*CHAT["messages"], message, {"role": "tool"}]
    error = await refused(server, "/v1/chat/completions", CHAT | {"messages": turns})
    assert (error["code"], error["param"]) == ("unsupported", f"messages[{len(turns) - 2}].{field}")
    assert error["message"].startswith(error["param"])


UNWANTED = {
    "tools": [{"type": "function"}],
    "functions": [{}],
    "tool_choice": "required",
    "function_call": {"name": "f"},
    "audio": {"voice": "x"},
    "modalities": ["text", "audio"],
    "prediction": {},
    "web_search_options": {},
}


@pytest.mark.parametrize("field", UNWANTED)
async def test_what_is_not_offered_is_refused_by_name(field: str, server: Harness) -> None:
    for path, body in (("/v1/completions", GOOD), ("/v1/chat/completions", CHAT)):
        error = await refused(server, path, body | {field: UNWANTED[field]})
        assert (error["code"], error["param"]) == ("unsupported", field)


@pytest.mark.parametrize(("field", "value"), [("suffix", "x"), ("best_of", 2)])
async def test_what_completions_do_not_offer_is_refused_by_name(field: str, value: Any, server: Harness) -> None:
    error = await refused(server, "/v1/completions", GOOD | {field: value})
    assert (error["code"], error["param"]) == ("unsupported", field)


async def test_what_asks_for_nothing_is_allowed(server: Harness) -> None:
    """Every optional field as null, every unsupported field with its harmless value, every ignored field with some."""
    some = {"metadata": {"a": "b"}, "store": True, "parallel_tool_calls": False, "prompt_cache_options": {"ttl": "24h"}}
    ignored = {name: some.get(name, "auto") for name in IGNORED}
    for path, good, shape in (("/v1/completions", GOOD, CompletionBody), ("/v1/chat/completions", CHAT, ChatBody)):
        nulls = {name: None for name, field in shape.model_fields.items() if not field.is_required()} | good
        status, answer = await post(server, path, json.dumps(nulls).encode())
        assert status == 200, answer
        harmless = {name: values[-1] for name, values in shape.unsupported.items() if name in shape.model_fields}
        status, answer = await post(server, path, json.dumps(good | harmless | ignored).encode())
        assert status == 200, answer


async def test_an_answer_can_be_sent_back_as_a_message(server: Harness) -> None:
    """SDKs do so, with every field of theirs, and with what other servers put into them."""
    full = {name: {"refusal": None, "blocks": [1]} for name in IGNORED_IN_MESSAGES}
    for fields in (dict.fromkeys(MessageBody.model_fields), full, {"name": "teller", "type": "text", "refusal": ""}):
        echo = fields | {"role": "assistant", "content": ""}
        messages = [*CHAT["messages"], echo, {"role": "user", "content": [{"type": "text", "text": "and?"}]}]  # type: ignore[misc]
        status, answer = await post(server, "/v1/chat/completions", json.dumps(CHAT | {"messages": messages}).encode())
        assert status == 200, answer


async def test_a_part_may_have_the_other_fields_of_its_message(server: Harness) -> None:
    """OpenAI's Agents SDK for Node sends the next turn so."""
    part = dict.fromkeys(IGNORED_IN_MESSAGES) | {"type": "text", "text": "hi", "role": "assistant"}
    messages = [*CHAT["messages"], {"role": "assistant", "content": [part]}, *CHAT["messages"]]  # type: ignore[misc]
    status, answer = await post(server, "/v1/chat/completions", json.dumps(CHAT | {"messages": messages}).encode())
    assert status == 200, answer


@pytest.mark.parametrize(
    "body",
    [
        {"stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": True},
        {"stream": True, "stream_options": {"include": 1}},
        {"dyno": True},
        {"dyno": {"routing": "all"}},
        {"dyno": {"depth": 1}},
    ],
    ids=str,
)
async def test_options_of_the_answer_are_checked_too(body: dict[str, Any], server: Harness) -> None:
    await refused(server, "/v1/completions", GOOD | body)


@pytest.mark.parametrize("body", [{"top_logprobs": 2}, {"logprobs": False, "top_logprobs": 2}])
async def test_top_logprobs_need_logprobs(body: dict[str, Any], server: Harness) -> None:
    assert (await refused(server, "/v1/chat/completions", CHAT | body))["param"] == "top_logprobs"


async def test_two_limits_that_disagree_are_refused(server: Harness) -> None:
    error = await refused(server, "/v1/chat/completions", CHAT | {"max_completion_tokens": 3})
    assert error["param"] == "max_completion_tokens"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": ""},
        JSON | {"content-encoding": "gzip"},
    ],
    ids=str,
)
async def test_another_media_type_is_refused(headers: dict[str, str], server: Harness) -> None:
    status, answer = await post(server, "/v1/completions", json.dumps(GOOD).encode(), headers)
    assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
async def test_json_by_any_of_its_names_is_read(media: str, server: Harness) -> None:
    assert (await post(server, "/v1/completions", json.dumps(GOOD).encode(), {"content-type": media}))[0] == 200


async def test_a_body_over_the_limit_is_refused(server: Harness) -> None:
    status, answer = await post(server, "/v1/completions", b" " * ((1 << 20) + 1))
    assert (status, answer["error"]["code"]) == (413, "body_too_large")
    assert str(1 << 20) in answer["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
async def test_every_route_with_a_body_reads_it_the_same_way(path: str, server: Harness) -> None:
    for raw in NOT_JSON.values():
        assert (await post(server, path, raw))[0] == 400
    assert (await post(server, path, b"{}", {"content-type": "text/plain"}))[0] == 415


async def test_nothing_of_all_this_is_left(server: Harness) -> None:
    await server.settled()
