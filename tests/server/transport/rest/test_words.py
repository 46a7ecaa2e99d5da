"""What is wrong with a body is told in the words of JSON: nobody who calls need know which language reads it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from server.errors import InvalidRequest, shown
from server.transport.rest.admin import CancelBody, DrainBody, LoadBody, ResetBody, UnloadBody
from server.transport.rest.body import shaped
from server.transport.rest.schema import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

TOLD: list[tuple[type[Body], dict[str, Any], str]] = [
    (CompletionBody, {"prompt": "x", "dyno": True}, "dyno must be an object, got true"),
    (CompletionBody, {"prompt": "x", "dyno": []}, "dyno must be an object, got []"),
    (CompletionBody, {"prompt": "x", "stream_options": "x"}, "stream_options must be an object, got 'x'"),
    (CompletionBody, {"prompt": "x", "metadata": 1}, "metadata must be an object, got 1"),
    (CompletionBody, {"prompt": "x", "metadata": {"a": None}}, "metadata.a must be a string, got null"),
    (CompletionBody, {"prompt": "x", "user": False}, "user must be a string, got false"),
    (CompletionBody, {"prompt": "x", "seed": 1.5}, "seed must be an integer, got 1.5"),
    (CompletionBody, {"prompt": "x", "max_tokens": "3"}, "max_tokens must be an integer, got '3'"),
    (CompletionBody, {"prompt": "x", "temperature": {}}, "temperature must be a number, got {}"),
    (CompletionBody, {"prompt": "x", "stream": 1}, "stream must be true or false, got 1"),
    (CompletionBody, {"prompt": "x", "stop_token_ids": 1}, "stop_token_ids must be a list, got 1"),
    (CompletionBody, {"prompt": "x", "stop_token_ids": [None]}, "stop_token_ids[0] must be an integer, got null"),
    (CompletionBody, {"prompt": "x", "stop": [True]}, "stop must be a string or a list of strings, got [true]"),
    (
        CompletionBody,
        {"prompt": "x", "dyno": {"routing": True}},
        "dyno.routing must be 'none', 'summary', 'layers' or 'tokens', got true",
    ),
    (
        CompletionBody,
        {"prompt": None},
        "prompt must be a string, a list of strings, a list of token ids or a list of such lists, got null",
    ),
    (CompletionBody, {"prompt": "x", "response_format": "json"}, "response_format must be an object, got 'json'"),
    (CompletionBody, {}, "prompt is needed"),
    (CompletionBody, {"prompt": "x", "wish": None}, "unknown field 'wish'"),
    (ChatBody, {"messages": None}, "messages must be a list, got null"),
    (ChatBody, {"messages": [None]}, "messages[0] must be an object, got null"),
    (ChatBody, {"messages": [{"role": "user"}]}, "messages[0].content is needed"),
    (ChatBody, {"messages": [{"role": None, "content": ""}]}, "messages[0].role must be a string, got null"),
    (
        ChatBody,
        {"messages": [{"role": "user", "content": [{"type": None}]}]},
        "messages[0].content may only have parts of type text, got null",
    ),
    (DetokenizeBody, {"tokens": [True]}, "tokens[0] must be an integer, got true"),
]

WHOLE: dict[type[Body], dict[str, Any]] = {
    CompletionBody: {"prompt": "x"},
    ChatBody: {"messages": [{"role": "user", "content": "x"}]},
    TokenizeBody: {"prompt": "x"},
    DetokenizeBody: {"tokens": [1]},
    LoadBody: {"model": "x"},
    UnloadBody: {"model": "x"},
    CancelBody: {"id": "x"},
    ResetBody: {},
    DrainBody: {},
}
VALUES: list[Any] = [None, True, 1, 1.5, -1, 2**70, 10**400, "x", [], [None], [1.5], [True], ["x"], [{}], [[]], {}]
INNER = (
    "routing",
    "latency",
    "include_usage",
    "type",
    "json",
    "regex",
    "choice",
    "json_schema",
    "role",
    "content",
    "a",
)
PYTHON = re.compile(r"None|True|False|\bdict|instance|Input|\bvalid|[a-z]Body|Options|Format|Outputs|Value error")


def refusal(shape: type[Body], body: dict[str, Any]) -> str:
    """What is said of a body; nothing of one that fits."""
    try:
        shaped(body, shape)
    except InvalidRequest as error:
        return error.message
    return ""


@pytest.mark.parametrize(("shape", "body", "said"), TOLD, ids=[said for _, _, said in TOLD])
def test_what_a_field_must_be_and_what_came(shape: type[Body], body: dict[str, Any], said: str) -> None:
    assert refusal(shape, body) == said


@pytest.mark.parametrize("shape", WHOLE)
def test_no_field_with_any_value_is_told_of_in_words_of_python(shape: type[Body]) -> None:
    values = [*VALUES, *({inner: value} for inner in INNER for value in VALUES)]
    for value in [*values, *([value] for value in values)]:
        for field in (*shape.model_fields, "unheard_of"):
            said = refusal(shape, WHOLE[shape] | {field: value})
            assert not PYTHON.search(said), said
    for field in WHOLE[shape]:
        assert refusal(shape, {}) == f"{field} is needed"


def test_values_are_shown_as_they_came() -> None:
    assert shown({"a": [None, True, {"b": False}], "c": "None"}) == "{'a': [null, true, {'b': false}], 'c': 'None'}"
