"""The ways of REST to ask for a form of the answer, and what is wrong with some."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.kit import Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
WAYS: dict[str, dict[str, Any]] = {
    "OpenAI": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "description": "b", "strict": True, "schema": SCHEMA},
        }
    },
    "guided": {"guided_json": SCHEMA},
    "guided text": {"guided_json": json.dumps(SCHEMA)},
    "structured": {"structured_outputs": {"json": SCHEMA}},
    "guided choice": {"guided_choice": ['{"a":1}', '{"a":2}']},
    "structured choice": {"structured_outputs": {"choice": ['{"a":1}', '{"a":2}']}},
    "guided regex": {"guided_regex": r'\{"a":[12]\}'},
    "structured regex": {"structured_outputs": {"regex": r'\{"a":[12]\}'}},
    "guided grammar": {"guided_grammar": 'start: "{" "\\"a\\"" ":" /[12]/ "}"'},
    "structured grammar": {"structured_outputs": {"grammar": 'start: "{" "\\"a\\"" ":" /[12]/ "}"'}},
}
MESSAGES = [{"role": "user", "content": "Which?"}]


async def post(server: Harness, body: dict[str, Any], chat: bool = False) -> tuple[int, dict[str, Any]]:
    own = {"model": "chat", "messages": MESSAGES} if chat else {"model": "fake", "prompt": "Which?"}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    async with server.session.post(server.url + path, json={**own, "max_tokens": 200, **body}) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
@pytest.mark.parametrize("way", WAYS)
async def test_every_way_leads_to_the_form(way: str, chat: bool, server: Harness) -> None:
    status, answer = await post(server, WAYS[way], chat)
    assert status == 200, answer
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["message"]["content"] if chat else choice["text"]) in ({"a": 1}, {"a": 2})


@pytest.mark.parametrize("body", [{"response_format": {"type": "text"}}, {"response_format": None}], ids=str)
async def test_text_is_any_text(body: dict[str, Any], server: Harness) -> None:
    assert (await post(server, body))[0] == 200


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
    "no type": ({"response_format": {}}, "response_format.type"),
    "no schema at all": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "no schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
    ),
    "not this type": (
        {"response_format": {"type": "text", "json_schema": {"schema": {}}}},
        "response_format.json_schema",
    ),
    "unknown field": ({"response_format": {"type": "text", "depth": 1}}, "response_format.depth"),
    "bad schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}},
        "response_format.json_schema.schema",
    ),
    "bad guided schema": ({"guided_json": {"type": 3}}, "guided_json"),
    "bad regex": ({"guided_regex": "(a"}, "guided_regex"),
    "bad choice": ({"guided_choice": []}, "guided_choice"),
    "bad grammar": ({"guided_grammar": "start: nobody"}, "guided_grammar"),
    "bad structured": ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
    "nothing structured": ({"structured_outputs": {}}, "structured_outputs"),
    "unknown structured": ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    "two": ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    "two ways": ({"response_format": {"type": "json_object"}, "guided_json": {}}, "guided_json"),
    "two structured": ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
    "and tokens": ({"guided_regex": "a", "allowed_token_ids": [97]}, "allowed_token_ids"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_is_refused_with_its_name(case: str, server: Harness) -> None:
    body, param = WRONG[case]
    for chat in (False, True):
        status, answer = await post(server, body, chat)
        assert (status, answer["error"]["param"]) == (400, param), answer


async def test_chat_names_its_own_fields(server: Harness) -> None:
    for field, value in (("max_completion_tokens", -1), ("top_logprobs", 21), ("max_completion_tokens", 1 << 20)):
        body = {"max_tokens": None, "logprobs": True, field: value}
        status, answer = await post(server, body, chat=True)
        assert (status, answer["error"]["param"]) == (400, field)
        if value != 1 << 20:
            assert answer["error"]["message"].startswith(field)


async def test_nothing_of_all_this_is_left(server: Harness) -> None:
    await server.settled()
