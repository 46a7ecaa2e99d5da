"""Everything that is refused, sent over both transports: same verdict, same words, nothing left behind."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from server.limits import Limits
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller
from tests.server.kit import CONTEXT, VOCAB, Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = Limits()
GOOD = {"model": "fake", "prompt": "abc", "max_tokens": 4}
USER = {"role": "user", "content": "hi"}

# name: (what is changed about a good request, the field at fault, words that the message must have)
CASES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "prompt empty": ({"prompt": ""}, "prompt", ("token",)),
    "prompt of NUL": ({"prompt": "a\0b"}, "prompt", ("NUL",)),
    "prompt long": ({"prompt": "x" * (LIMITS.content_chars + 1)}, "prompt", (str(LIMITS.content_chars),)),
    "ids empty": ({"token_ids": []}, "prompt", ()),
    "id negative": ({"token_ids": [1, -1]}, "prompt", ("prompt[1]", "-1", str(VOCAB - 1))),
    "id beyond": ({"token_ids": [VOCAB]}, "prompt", (str(VOCAB), str(VOCAB - 1))),
    "id huge": ({"token_ids": [2**31 - 1]}, "prompt", (str(2**31 - 1),)),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens", ("0", "1")),
    "max_tokens negative": ({"max_tokens": -5}, "max_tokens", ("-5",)),
    "min_tokens negative": ({"min_tokens": -1}, "min_tokens", ("-1",)),
    "min_tokens above max": ({"min_tokens": 5}, "min_tokens", ("4", "5")),
    "min_tokens above default": ({"min_tokens": 17, "max_tokens": None}, "min_tokens", ("16", "17")),
    "temperature high": ({"temperature": 2.1}, "temperature", ("2.1", "between 0 and 2")),
    "temperature negative": ({"temperature": -0.1}, "temperature", ("-0.1",)),
    "top_k negative": ({"top_k": -2}, "top_k", ("-2",)),
    "top_p zero": ({"top_p": 0.0}, "top_p", ("0",)),
    "top_p high": ({"top_p": 1.01}, "top_p", ("1.01",)),
    "min_p high": ({"min_p": 1.5}, "min_p", ("1.5",)),
    "min_p negative": ({"min_p": -0.5}, "min_p", ("-0.5",)),
    "presence high": ({"presence_penalty": 2.1}, "presence_penalty", ("2.1", "-2")),
    "frequency low": ({"frequency_penalty": -2.1}, "frequency_penalty", ("-2.1",)),
    "repetition zero": ({"repetition_penalty": 0.0}, "repetition_penalty", ("0.01",)),
    "repetition high": ({"repetition_penalty": 2.5}, "repetition_penalty", ("2.5",)),
    "bias id negative": ({"logit_bias": {"-1": 1.0}}, "logit_bias", ("-1",)),
    "bias id beyond": ({"logit_bias": {str(VOCAB): 1.0}}, "logit_bias", (str(VOCAB),)),
    "bias high": ({"logit_bias": {"3": 100.5}}, "logit_bias", ("100.5",)),
    "bias many": ({"logit_bias": {str(i): 1.0 for i in range(301)}}, "logit_bias", ("300", "301")),
    "stop many": ({"stop": ["x"] * 17}, "stop", ("16", "17")),
    "stop empty": ({"stop": ["a", ""]}, "stop", ("stop[1]",)),
    "stop long": ({"stop": ["x" * 65]}, "stop", ("64", "65")),
    "stop id beyond": ({"stop_token_ids": [VOCAB]}, "stop_token_ids", (str(VOCAB),)),
    "stop ids many": ({"stop_token_ids": [1] * 65}, "stop_token_ids", ("64", "65")),
    "n zero": ({"n": 0}, "n", ("0",)),
    "n five": ({"n": 5}, "n", ("4", "5")),
    "n huge": ({"n": 2**31 - 1}, "n", (str(2**31 - 1),)),
    "logprobs negative": ({"logprobs": -1}, "logprobs", ("-1",)),
    "logprobs many": ({"logprobs": 21}, "logprobs", ("20", "21")),
    "user long": ({"user": "u" * 65}, "user", ("64", "65")),
    "user control": ({"user": "a\nb"}, "user", ("\\n",)),
    "chat without template": ({"messages": [USER]}, "messages", ("chat template", "fake")),
    "no messages": ({"model": "chat", "messages": []}, "messages", ()),
    "role unknown": ({"model": "chat", "messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", ("tool",)),
    "content blank": ({"model": "chat", "messages": [USER, USER | {"content": " "}]}, "messages[1].content", ()),
    "content NUL": ({"model": "chat", "messages": [USER | {"content": "\0"}]}, "messages[0].content", ("NUL",)),
    "template refuses": ({"model": "chat", "messages": [USER | {"role": "assistant"}]}, "messages", ("first",)),
    "renders to nothing": ({"model": "chat", "messages": [USER | {"content": "render nothing"}]}, "messages", ()),
    "messages many": ({"model": "chat", "messages": [USER] * 257}, "messages", ("256", "257")),
    "contents long": (
        {"model": "chat", "messages": [USER | {"content": "x" * (LIMITS.content_chars // 2)}] * 3},
        "messages",
        (str(LIMITS.content_chars),),
    ),
}


def wish_of(change: dict[str, Any]) -> dict[str, Any]:
    """A good request, changed; None takes a field away, another kind of prompt takes the text away."""
    wish = GOOD | change
    if {"token_ids", "messages"} & change.keys():
        del wish["prompt"]
    return {name: value for name, value in wish.items() if value is not None}


def rest_words(said: str | None) -> str:
    """What gRPC said, as REST does: token ids are a field of their own there."""
    return re.sub(r"^token_ids\b", "prompt", said or "")


async def refusal(caller: Caller, wish: dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as whole:
        await caller.whole(**wish)
    with pytest.raises(Refused) as streamed:
        await caller.stream(**wish)
    assert (streamed.value.kind, streamed.value.message) == (whole.value.kind, whole.value.message)
    assert not streamed.value.begun
    return whole.value


@pytest.mark.parametrize("case", CASES)
async def test_both_refuse_it_in_the_same_words(
    case: str, callers: tuple[RestCaller, RpcCaller], server: Harness
) -> None:
    change, param, words = CASES[case]
    rest, rpc = [await refusal(caller, wish_of(change)) for caller in callers]
    assert (rest.kind, rest.code, rest.message) == (rpc.kind, rpc.code, rest_words(rpc.message))
    assert (rpc.param or "").startswith("token_ids") == ("token_ids" in change), "the caller's own field is named"
    assert rest.kind == "invalid"
    assert rest.param == param
    assert rest_words(rpc.param).removeprefix("sampling.").removeprefix("conversation.") == param
    assert all(word in rest.message for word in words), rest.message
    assert param.split("[")[0].split(".")[0] in rest.message or case == "chat without template"
    assert len(rest.message) < 400
    await server.settled()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": CONTEXT - 2}, "max_tokens"),
        ({"max_tokens": 2**31 - 1}, "max_tokens"),
        ({"prompt": "x" * CONTEXT}, "prompt"),
        ({"prompt": "x" * CONTEXT, "max_tokens": None}, "prompt"),
        ({"prompt": "x" * 5000, "max_tokens": None}, "prompt"),
    ],
)
async def test_what_does_not_fit_the_context_is_told_as_such(
    change: dict[str, Any], param: str, callers: tuple[RestCaller, RpcCaller]
) -> None:
    for caller in callers:
        said = await refusal(caller, wish_of(change))
        assert (said.kind, said.code) == ("invalid", "context_length_exceeded")
        assert (said.param or "").removeprefix("sampling.") == param
        assert said.message.startswith(f"This model's maximum context length is {CONTEXT} tokens; "), "OpenAI's words"


@pytest.mark.parametrize("model", ["nobody", "../../etc/passwd", "a\nb", "x" * 10_000])
async def test_an_unknown_model_is_not_found(model: str, callers: tuple[RestCaller, RpcCaller]) -> None:
    rest, rpc = [await refusal(caller, {**GOOD, "model": model}) for caller in callers]
    assert (
        (rest.kind, rest.code, rest.param)
        == (rpc.kind, rpc.code, rpc.param)
        == ("not found", "model_not_found", "model")
    )
    assert rest.message == rpc.message and "\n" not in rest.message and len(rest.message) < 300


async def test_a_model_must_be_named_where_there_are_several(callers: tuple[RestCaller, RpcCaller]) -> None:
    wish = {name: value for name, value in GOOD.items() if name != "model"}
    for caller in callers:
        said = await refusal(caller, wish)
        assert (said.kind, said.param) == ("invalid", "model")
        assert "story" in said.message


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_no_sampling_number_may_be_infinite(
    field: str, value: float, callers: tuple[RestCaller, RpcCaller]
) -> None:
    said = await refusal(callers[1], {**GOOD, field: value})  # JSON has no word for these
    assert (said.kind, said.param) == ("invalid", f"sampling.{field}")


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": 1e-45},
        {"temperature": 2},
        {"top_p": 1e-12},
        {"top_p": 1},
        {"prompt": "\n"},
        {"prompt": " \t"},
        {"top_k": 0},
        {"top_k": -1},
        {"top_k": 2**31 - 1},
        {"min_p": 1},
        {"presence_penalty": -2, "frequency_penalty": 2},
        {"repetition_penalty": 0.01},
        {"logit_bias": {str(i): -100.0 for i in range(VOCAB)}},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"stop": ["x" * 64] * 16},
        {"n": 4, "logprobs": 20},
        {"user": "u" * 64},
        {"min_tokens": 4},
    ],
    ids=str,
)
async def test_the_limits_themselves_are_allowed(change: dict[str, Any], caller: Caller) -> None:
    assert await caller.whole(**GOOD | change)


async def test_every_refusal_was_counted_and_none_reached_an_engine(
    callers: tuple[RestCaller, RpcCaller], server: Harness
) -> None:
    before = await server.total("dyno_requests_total", outcome="rejected")
    computed = await server.total("dyno_computed_tokens_total")
    for caller in callers:
        await refusal(caller, {**GOOD, "temperature": 9})
        await refusal(caller, {**GOOD, "model": "nobody"})
    assert await server.total("dyno_requests_total", outcome="rejected") == before + 8
    assert await server.total("dyno_requests_total", outcome="rejected", model="unknown") >= 4
    assert await server.total("dyno_computed_tokens_total") == computed
    await server.settled()
