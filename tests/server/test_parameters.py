"""What a request may ask beside the plain things, over both transports."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from tests.fakes import continuation
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller
from tests.server.conftest import SCRIPT
from tests.server.kit import CONTEXT, VOCAB

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = SCRIPT.decode()
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "yé"]}, "c": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "schema": {"json_schema": json.dumps(SCHEMA)},
    "regex": {"regex": r"[a-f]{3}-[0-9]{1,4}\."},
    "choice": {"choice": ["yes", "no", "perhaps"]},
    "grammar": {"grammar": 'start: "(" start ")" | "x"'},
}


def has_form(text: str, name: str) -> bool:
    if name == "schema":
        jsonschema.validate(json.loads(text), SCHEMA)
        return True
    if name == "choice":
        return text in FORMS["choice"]["choice"]
    return bool(re.fullmatch(FORMS["regex"]["regex"] if name == "regex" else r"\(*x\)*", text))


@pytest.mark.parametrize("name", FORMS)
async def test_an_answer_has_the_form_it_was_asked_for(name: str, caller: Caller) -> None:
    wish = {"model": "fake", "prompt": "say", "max_tokens": 200, "form": FORMS[name], "n": 2, "logprobs": 1}
    whole, streamed = await caller.whole(**wish), await caller.stream(**wish)
    assert [told.tokens for told in streamed] == [told.tokens for told in whole]
    for told in (*whole, *streamed):
        assert told.reason in ("stop", "length") and len(told.logprobs) == len(told.tokens)
        assert has_form(told.text, name) if told.reason == "stop" else len(told.tokens) == 200
    if name in ("regex", "choice"):
        assert whole[0].reason == "stop", "nothing may follow"


async def test_any_object_is_json(caller: Caller) -> None:
    ended = 0
    for prompt in ("a", "bc", "def", "tell me"):
        [told] = await caller.whole(model="fake", prompt=prompt, max_tokens=200, form={"json_object": True})
        ended += told.reason == "stop"
        assert told.text.lstrip().startswith("{")
        assert told.reason == "length" or isinstance(json.loads(told.text), dict)


async def test_a_form_goes_before_min_tokens_and_ignore_eos(caller: Caller) -> None:
    wish = {"model": "fake", "prompt": "say", "max_tokens": 50, "form": {"choice": ["yes", "no"]}}
    [plain] = await caller.whole(**wish)
    for more in ({"min_tokens": 40}, {"ignore_eos": True}):
        [told] = await caller.whole(**wish, **more)
        assert (told.text, told.reason) == (plain.text, "stop")


async def test_a_form_that_may_go_on_goes_on_under_ignore_eos(caller: Caller) -> None:
    [told] = await caller.whole(model="fake", prompt="say", max_tokens=30, form={"regex": "[ab]*"}, ignore_eos=True)
    assert (len(told.tokens), told.reason) == (30, "length")


async def test_only_allowed_tokens_are_said(caller: Caller) -> None:
    [told] = await caller.whole(model="fake", prompt="abc", max_tokens=30, allowed_token_ids=[65, 66, 300 - 50])
    assert set(told.tokens) <= {65, 66, 250} and len(told.tokens) == 30


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"stop": ["und"]}, "Hänsel und"),
        ({"stop": ["nd G", "d "]}, "Hänsel und "),
        ({"stop": ["der Wolf", "der"]}, "Hänsel und Gretel, 🐻 und der"),
        ({"stop_token_ids": [ord("u")]}, "Hänsel u"),
        ({"stop": ["END of it"]}, STORY),
        ({}, STORY),
    ],
    ids=str,
)
async def test_what_ends_the_text_can_be_shown(more: dict[str, Any], text: str, caller: Caller) -> None:
    wish = {"model": "story", "prompt": "x", "max_tokens": 100, "include_stop_str_in_output": True, **more}
    for [told] in (await caller.whole(**wish), await caller.stream(**wish)):
        assert (told.text, told.reason) == (text, "stop")


async def test_min_tokens_come_before_an_end(caller: Caller) -> None:
    [told] = await caller.whole(model="story", prompt="x", max_tokens=60, min_tokens=len(SCRIPT) + 3)
    assert len(told.tokens) == len(SCRIPT) + 4, "the fake says its end token again and again"


async def test_every_choice_is_a_draw_of_its_own(caller: Caller) -> None:
    told = await caller.whole(model="fake", prompt="abc", max_tokens=3, n=4, seed=1)
    assert len(told) == 4


@pytest.mark.parametrize("max_tokens", [0, 1, 4])
@pytest.mark.parametrize("prompt", ["a", "abc", "a much longer prompt than one block or one step can hold " * 2])
async def test_prompts_are_scored(max_tokens: int, prompt: str, caller: Caller) -> None:
    wish = {"model": "fake", "prompt": prompt, "max_tokens": max_tokens, "prompt_logprobs": 1}
    for _ in range(2):  # the second time its blocks are in the cache
        for [told] in (await caller.whole(**wish), await caller.stream(**wish)):
            assert told.prompt == [None, *((byte, -byte / 8, 1) for byte in prompt.encode()[1:])]
            assert told.tokens == continuation(prompt.encode(), max_tokens, VOCAB)
            assert told.reason == "length"
            assert told.facts["usage"]["cached_tokens"] == 0


async def test_a_prompt_that_fills_the_context_can_be_scored(caller: Caller) -> None:
    [told] = await caller.whole(model="fake", token_ids=[1] * CONTEXT, max_tokens=0, prompt_logprobs=0)
    assert len(told.prompt) == CONTEXT
    with pytest.raises(Refused) as said:
        await caller.whole(model="fake", token_ids=[1] * (CONTEXT + 1), max_tokens=0, prompt_logprobs=0)
    assert said.value.code == "context_length_exceeded"


async def test_what_the_cache_held_is_told(caller: Caller) -> None:
    wish = {"model": "fake", "prompt": f"{type(caller).__name__} is told this again and again", "max_tokens": 2}
    [first], [second] = await caller.whole(**wish), await caller.whole(**wish)
    usages = [told.facts["usage"]["cached_tokens"] for told in (first, second)]
    assert usages[0] == 0 and usages[1] >= 20


async def test_both_say_the_same_of_a_form(callers: tuple[RestCaller, RpcCaller]) -> None:
    wish = {"model": "fake", "prompt": "both", "max_tokens": 60, "form": FORMS["schema"], "prompt_logprobs": 2}
    rest, rpc = [await caller.stream(**wish) for caller in callers]
    assert [(t.text, t.tokens, t.reason, t.prompt) for t in rest] == [
        (t.text, t.tokens, t.reason, t.prompt) for t in rpc
    ]
