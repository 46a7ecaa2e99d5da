"""What a generation gives, the same over both transports."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from model.tokenizer import ByteTokenizer
from server.engine.step import MixtureShape
from tests.fakes import continuation, expert_tokens, routes_of
from tests.server.callers import Caller, RestCaller, RpcCaller
from tests.server.conftest import SCRIPT
from tests.server.kit import ACTIVE, CONTEXT, EXPERTS, LAYERS, VOCAB, Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = SCRIPT.decode()
MIXTURES = [MixtureShape(layer, EXPERTS, ACTIVE) for layer in range(LAYERS)]


async def test_the_answer_is_what_the_model_says(caller: Caller) -> None:
    [told] = await caller.whole(model="fake", prompt="abc", max_tokens=5, temperature=0)
    assert told.tokens == continuation(b"abc", 5, VOCAB)
    assert told.text == ByteTokenizer().decode(told.tokens)
    assert told.reason == "length"
    assert told.facts["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "cached_tokens": 0}


@pytest.mark.parametrize("prompt", ["abc", "é", "🐻", "a much longer prompt than one block holds " * 3])
async def test_a_stream_is_the_whole_answer_in_pieces(caller: Caller, prompt: str) -> None:
    wish = {"model": "fake", "prompt": prompt, "max_tokens": 40, "temperature": 0}
    [whole], [streamed] = await caller.whole(**wish), await caller.stream(**wish)
    assert (streamed.text, streamed.tokens, streamed.reason) == (whole.text, whole.tokens, whole.reason)
    if isinstance(caller, RestCaller):
        assert len(streamed.pieces) == len(streamed.tokens), "one piece a step"


async def test_token_ids_are_a_prompt_too(caller: Caller) -> None:
    [text] = await caller.whole(model="fake", prompt="abc", max_tokens=3)
    [ids] = await caller.whole(model="fake", token_ids=list(b"abc"), max_tokens=3)
    assert ids.tokens == text.tokens


async def test_a_conversation_goes_through_the_template(caller: Caller) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi <|im_end|>"}]
    [told] = await caller.whole(model="chat", messages=messages, max_tokens=4)
    prompt = b"system: Be kind.\nuser: Hi <|im_end|>\nassistant: "
    assert told.tokens == continuation(prompt, 4, VOCAB)


async def test_no_piece_holds_half_a_character(caller: Caller) -> None:
    [told] = await caller.stream(model="story", prompt="x", max_tokens=100)
    assert told.text == STORY
    assert "\ufffd" not in "".join(told.pieces)
    assert told.reason == "stop"


async def test_a_character_cut_by_max_tokens_is_shown_as_one_replacement(caller: Caller) -> None:
    [told] = await caller.stream(model="story", prompt="x", max_tokens=2)  # "H" and the first byte of "ä"
    assert "".join(told.pieces) == "H\ufffd"


@pytest.mark.parametrize(
    ("stop", "told", "tokens"),
    [
        ("und", "Hänsel ", 11),
        (["Wolf", "Gretel"], "Hänsel und ", 18),
        ("🐻", "Hänsel und Gretel, ", 24),
        ("H", "", 1),
        ("END of it!", STORY, len(SCRIPT) + 1),
        ([" of", "END o"], "Hänsel und Gretel, 🐻 und der Wolf. ", 44),
        ("never said", STORY, len(SCRIPT) + 1),
    ],
)
async def test_a_stop_string_ends_the_text_before_it(caller: Caller, stop: Any, told: str, tokens: int) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    [answer] = await caller.stream(model="story", prompt="x", max_tokens=100, stop=stops)
    assert answer.text == told
    assert answer.reason == "stop"
    assert len(answer.tokens) == answer.facts["usage"]["completion_tokens"] == tokens, (
        "ends at the token that completes"
    )
    [whole] = await caller.whole(model="story", prompt="x", max_tokens=100, stop=stops)
    assert (whole.text, whole.tokens) == (answer.text, answer.tokens)


async def test_what_is_held_back_for_a_stop_string_comes_out_at_the_end(caller: Caller) -> None:
    [told] = await caller.stream(model="story", prompt="x", max_tokens=10, stop=["unde"])
    assert told.text == "Hänsel un"
    assert told.reason == "length"


async def test_a_stop_string_within_min_tokens_is_text(caller: Caller) -> None:
    [told] = await caller.stream(model="story", prompt="x", max_tokens=100, min_tokens=12, stop=["und"])
    assert told.text == "Hänsel und Gretel, 🐻 "


async def test_a_stop_token_is_not_shown(caller: Caller) -> None:
    [told] = await caller.stream(model="story", prompt="x", max_tokens=100, stop_token_ids=[ord("u")])
    assert (told.text, told.reason) == ("Hänsel ", "stop")
    assert told.tokens[-1] == ord("u")


async def test_the_end_token_can_be_ignored(caller: Caller) -> None:
    [told] = await caller.whole(model="story", prompt="x", max_tokens=len(SCRIPT) + 3, ignore_eos=True)
    assert (told.text, told.reason) == (STORY, "length")
    assert told.tokens[-3:] == [VOCAB - 1] * 3


async def test_choices_are_numbered_and_complete(caller: Caller) -> None:
    for told in (
        await caller.whole(model="fake", prompt="abc", max_tokens=6, n=4),
        await caller.stream(model="fake", prompt="abc", max_tokens=6, n=4),
    ):
        assert [choice.tokens for choice in told] == [continuation(b"abc", 6, VOCAB)] * 4
        assert all(choice.facts["usage"]["completion_tokens"] == 6 for choice in told)


async def test_log_probabilities_come_with_every_token(caller: Caller) -> None:
    wish = {"model": "fake", "prompt": "abc", "max_tokens": 6, "logprobs": 1}
    for [told] in (await caller.whole(**wish), await caller.stream(**wish)):
        assert told.logprobs == [-token / 8 for token in told.tokens]
    [told] = await caller.whole(model="fake", prompt="abc", max_tokens=6)
    assert told.logprobs == []


@pytest.mark.parametrize(("prompt", "tokens"), [("abc", 16), ("x" * (CONTEXT - 5), 5)])
async def test_without_max_tokens_an_answer_is_short_and_fits(caller: Caller, prompt: str, tokens: int) -> None:
    [told] = await caller.whole(model="fake", prompt=prompt, ignore_eos=True)
    assert len(told.tokens) == tokens


async def test_a_prompt_of_exactly_the_limit_is_served(caller: Caller) -> None:
    [told] = await caller.whole(model="fake", prompt="x" * (CONTEXT - 3), max_tokens=3, ignore_eos=True)
    assert len(told.tokens) == 3


async def test_the_facts_of_routing_are_exact(caller: Caller) -> None:
    wish = {"model": "fake", "prompt": "some tokens", "max_tokens": 7, "temperature": 0}
    [told] = await caller.whole(**wish, routing="tokens")
    routed = [*b"some tokens", *told.tokens[:-1]]
    routing = told.facts["routing"]
    assert routing["tokens"] == len(routed)
    assert [layer["expert_tokens"] for layer in routing["layers"]] == expert_tokens(routed, MIXTURES)
    packed = routing["token_routing"]
    assert (packed["tokens"], packed["layers"], packed["top_k"]) == (len(routed), LAYERS, ACTIVE)
    ids = np.frombuffer(packed["expert_ids"], "<i2").reshape(len(routed), LAYERS, ACTIVE)
    assert (ids == routes_of(routed, 0, len(routed), MIXTURES).experts).all()
    [quiet] = await caller.whole(**wish, routing="none")
    assert quiet.facts["routing"] is None
    [layers] = await caller.stream(**wish, routing="layers")
    assert layers.facts["routing"] == {name: routing[name] for name in ("tokens", "summary", "layers")}


async def test_a_model_without_experts_tells_of_none(caller: Caller) -> None:
    [told] = await caller.whole(model="chat", prompt="abc", max_tokens=2, routing="tokens")
    assert told.facts["routing"] is None


async def test_a_prefix_is_found_again_and_its_routing_told(caller: Caller, server: Harness) -> None:
    wish = {"model": "fake", "prompt": "a prefix of several blocks of the cache", "max_tokens": 4}
    [first] = await caller.whole(**wish)
    [second] = await caller.whole(**wish)
    assert second.facts["usage"]["cached_tokens"] >= 32
    assert second.tokens == first.tokens
    assert second.facts["routing"] == first.facts["routing"]


async def test_latency_adds_up(caller: Caller) -> None:
    [told] = await caller.stream(model="slow", prompt="abc", max_tokens=5)
    latency = told.facts["latency"]
    assert latency["first_token"] == pytest.approx(latency["queued"] + latency["prefill"])
    assert latency["inter_token"]["count"] == 4
    assert latency["decode"] == pytest.approx(4 * latency["inter_token"]["mean"])
    assert latency["prefill"] >= 0.01 and latency["inter_token"]["p50"] >= 0.01
    assert latency["total"] >= latency["first_token"] + latency["decode"] - 1e-9


async def test_both_transports_tell_the_same(callers: tuple[RestCaller, RpcCaller]) -> None:
    wish = {
        "model": "fake",
        "prompt": "the same over both",
        "max_tokens": 9,
        "n": 2,
        "logprobs": 2,
        "routing": "tokens",
    }
    rest, rpc = [await caller.stream(**wish) for caller in callers]
    for one, other in zip(rest, rpc, strict=True):
        assert (one.text, one.tokens, one.reason, one.logprobs) == (
            other.text,
            other.tokens,
            other.reason,
            other.logprobs,
        )
        assert one.facts["routing"] == other.facts["routing"]
        assert one.facts.keys() - {"index"} == other.facts.keys()


async def test_many_at_once_are_each_answered_as_alone(caller: Caller, server: Harness) -> None:
    prompts = [f"prompt number {i}" for i in range(24)]
    answers = await asyncio.gather(*(caller.stream(model="fake", prompt=p, max_tokens=12) for p in prompts))
    assert [told.tokens for [told] in answers] == [continuation(p.encode(), 12, VOCAB) for p in prompts]
    await server.settled()
