"""One request, two transports, one verdict: every case is sent to both, whole and as a stream, and compared."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from server.transport.rpc.errors import field_path
from tests.server.callers import FORMS, Caller, Refused, RestCaller, RpcCaller, Told
from tests.server.kit import CONTEXT, VOCAB, Harness
from tests.server.test_bad_input import CASES, USER, rest_words, wish_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPTIONS: dict[str, dict[str, Any]] = {
    "hot": {"temperature": 1.5, "seed": 7},
    "top": {"top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 7},
    "penalties": {"presence_penalty": 1.0, "frequency_penalty": -1.0, "repetition_penalty": 1.2},
    "bias": {"logit_bias": {"65": 5.0}},
    "several": {"n": 3},
    "logprobs": {"logprobs": 2},
    "scores": {"prompt_logprobs": 1},
    "stop": {"stop": ["and", "x"]},
    "stop shown": {"stop": "e", "include_stop_str_in_output": True},
    "stop ids": {"stop_token_ids": [65, 66]},
    "endless": {"ignore_eos": True},
    "at least": {"min_tokens": 6},
    "user": {"user": "me"},
    "urgent": {"priority": -100},
    "routing": {"routing": "tokens"},
    "allowed": {"allowed_token_ids": [65, 66, 67, 256]},
    "regex": {"form": {"regex": "[a-d]{2,12}"}},
    "schema": {"form": {"json_schema": '{"type": "array", "items": {"type": "boolean"}}'}},
    "choice": {"form": {"choice": ["a", "ab", "abc"]}},
    "object": {"form": {"json_object": True}},
    "grammar": {"form": {"grammar": 'start: "a"+'}},
}
APART = {frozenset(pair) for pair in itertools.combinations(("regex", "schema", "choice", "object", "grammar"), 2)}
APART |= {frozenset(("allowed", name)) for name in ("regex", "schema", "choice", "object", "grammar")}
APART |= {frozenset(("stop", "stop shown"))}
PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if frozenset(pair) not in APART]

BAD: dict[str, dict[str, Any]] = {
    "prompt_logprobs 21": {"prompt_logprobs": 21},
    "prompt_logprobs -1": {"prompt_logprobs": -1},
    "priority 101": {"priority": 101},
    "priority -101": {"priority": -101},
    "priority 2^31-1": {"priority": 2**31 - 1},
    "allowed id beyond": {"allowed_token_ids": [1, VOCAB]},
    "allowed id negative": {"allowed_token_ids": [-1]},
    "allowed ids many": {"allowed_token_ids": [1] * 4097},
    "allowed and form": {"allowed_token_ids": [1], "form": {"regex": "a"}},
    "regex": {"form": {"regex": "(a"}},
    "regex empty": {"form": {"regex": ""}},
    "regex long": {"form": {"regex": "a" * 70_000}},
    "schema": {"form": {"json_schema": '{"type": "strin"}'}},
    "schema not JSON": {"form": {"json_schema": "{"}},
    "schema with a key twice": {"form": {"json_schema": '{"type": "string", "type": "object"}'}},
    "schema nested": {"form": {"json_schema": '{"items":' * 60 + "{}" + "}" * 60}},
    "schema for ever": {"form": {"json_schema": '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}'}},
    "choice none": {"form": {"choice": []}},
    "choice empty": {"form": {"choice": ["a", ""]}},
    "choices many": {"form": {"choice": ["a"] * 1025}},
    "grammar": {"form": {"grammar": "start: nobody"}},
    "nothing to do": {"max_tokens": 0},
    "too long to score": {"max_tokens": 0, "prompt_logprobs": 0, "prompt": None, "token_ids": [1] * (CONTEXT + 1)},
    "too long to talk": {"model": "chat", "messages": [{"role": "user", "content": "x" * CONTEXT}]},
    "ends before it may": {"max_tokens": 4, "min_tokens": 5, "prompt_logprobs": 0},
}
PATHS = {f"guidance.{kind}": field for kind, field in FORMS.items()}


def of_interest(told: list[Told]) -> list[tuple[Any, ...]]:
    """What does not hang on time; the routing summary and what the cache held depend on who came before."""
    return [(t.text, t.tokens, t.reason, t.logprobs, t.prompt, t.facts["usage"]["completion_tokens"]) for t in told]


async def verdict(caller: Caller, wish: dict[str, Any]) -> tuple[Any, ...]:
    """What a transport says, in words that both share."""
    said = []
    for ask in (caller.whole, caller.stream):
        try:
            said.append(("told", of_interest(await ask(**wish))))
        except Refused as refused:
            assert not refused.begun
            said.append((refused.kind, refused.code, refused.param, refused.message))
    assert said[0] == said[1], "whole or streamed is no matter"
    return said[0]


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
async def test_every_pair_of_options_gives_the_same(
    pair: tuple[str, str], callers: tuple[RestCaller, RpcCaller]
) -> None:
    wish = {"model": "fake", "prompt": "pairs", "max_tokens": 12, **OPTIONS[pair[0]], **OPTIONS[pair[1]]}
    rest, rpc = [await verdict(caller, wish) for caller in callers]
    assert rest == rpc and rest[0] == "told"


@pytest.mark.parametrize("case", [*BAD, *CASES])
async def test_every_refusal_is_the_same(case: str, callers: tuple[RestCaller, RpcCaller]) -> None:
    wish = wish_of(BAD[case] if case in BAD else CASES[case][0])
    rest, rpc = [await verdict(caller, wish) for caller in callers]
    assert rest[0] == rpc[0] == "invalid"
    assert (rest[1], rest[3]) == (rpc[1], rest_words(rpc[3]))
    assert rest_words(rpc[2]) in (field_path(rest[2]), *(path for path, field in PATHS.items() if rest[2] == field))


@pytest.mark.parametrize(
    ("param", "path"),
    [
        ("max_tokens", "sampling.max_tokens"),
        ("stop", "sampling.stop"),
        ("logit_bias", "sampling.logit_bias"),
        ("allowed_token_ids", "sampling.allowed_token_ids"),
        ("messages[0].role", "conversation.messages[0].role"),
        ("prompt", "prompt"),
        ("n", "n"),
        ("prompt_logprobs", "prompt_logprobs"),
        ("guidance.regex", "guidance.regex"),
        ("seedling", "seedling"),
    ],
)
async def test_fields_of_errors_are_where_the_contract_has_them(param: str, path: str) -> None:
    assert field_path(param) == path


async def test_the_developer_is_the_system(callers: tuple[RestCaller, RpcCaller]) -> None:
    said = []
    for role in ("developer", "system"):
        wish = {"model": "chat", "messages": [{"role": role, "content": "Be kind."}, USER], "max_tokens": 4}
        said += [await verdict(caller, wish) for caller in callers]
    assert said[0][0] == "told" and said == [said[0]] * 4


@pytest.mark.parametrize("depth", [33, 10_000])
async def test_a_deep_schema_costs_nothing(depth: int, callers: tuple[RestCaller, RpcCaller]) -> None:
    schema: Any = {}
    for _ in range(min(depth, 200)):
        schema = {"items": schema}
    text = json.dumps(schema) if depth < 200 else '{"items":' * depth
    wish = {"model": "fake", "prompt": "a", "form": {"json_schema": text}}
    rest, rpc = [await verdict(caller, wish) for caller in callers]
    assert rest[0] == rpc[0] == "invalid" and rest[3] == rpc[3]


async def test_nothing_of_all_this_is_left(server: Harness) -> None:
    await server.settled()
