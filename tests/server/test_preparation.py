"""From a call to the engine's requests: defaults, seeds, arrival, deadline; and where texts are tokenised."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import Metaspace
from tokenizers.models import WordLevel

from model.tokenizer import ByteTokenizer, Tokenizer
from server.call import Conversation, GenerateCall, Message, SamplingWishes
from server.engine.request import Request, Sampling
from server.errors import InvalidValue, QueueFull, UnsupportedField
from server.guidance.guides import Guides
from server.limits import Limits
from server.models import ServedModel
from server.preparation import Preparation, visible_text
from server.textwork import LONG_TEXT, TextWork
from tests.fakes import Recorder
from tests.server.kit import CONTEXT, VOCAB, fake_model


def model(**more: Any) -> ServedModel:
    return fake_model(**more)(Recorder())


async def prepared(call: GenerateCall, served: ServedModel | None = None) -> list[Request]:
    texts, guides = TextWork(Limits(queue=4)), Guides(Limits())
    try:
        return await Preparation(Limits(), texts, guides).requests("id", call, served or model(), arrived=100.0)
    finally:
        texts.close()
        guides.close()


async def test_what_is_not_asked_for_has_the_documented_default() -> None:
    [request] = await prepared(GenerateCall(None, ("abc",)))
    seed = request.sampling.seed
    assert request.sampling == Sampling(max_tokens=16, seed=seed, stop_ids=frozenset({VOCAB - 1}))
    assert (request.id, request.prompt, request.stop) == ("id-0", (97, 98, 99), None)
    assert (request.arrived, request.deadline) == (100.0, 100.0 + Limits().request_seconds)


async def test_white_space_is_a_prompt_where_it_comes_to_tokens() -> None:
    requests = await prepared(GenerateCall(None, ("\n", " ")))
    assert [request.prompt for request in requests] == [(10,), (32,)]
    with pytest.raises(InvalidValue, match=r"^prompt must come to at least one token"):
        await prepared(GenerateCall(None, ("",)))
    with pytest.raises(InvalidValue, match=r"^prompt\[1\] must come to at least one token"):
        await prepared(GenerateCall(None, (" ", "")))


async def test_what_is_asked_for_reaches_the_engine() -> None:
    wishes = SamplingWishes(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=1.5,
        logit_bias=((1, 2.0),),
        seed=5,
        stop_token_ids=(7,),
        ignore_eos=True,
    )
    [request] = await prepared(GenerateCall("fake", ("abc",), wishes, logprobs=4))
    assert request.sampling == Sampling(9, 2, 0.5, 3, 0.9, 0.1, 1.0, -1.0, 1.5, ((1, 2.0),), 5, 4, frozenset({7}))


@pytest.mark.parametrize(("temperature", "used"), [(0.0, 0.0), (1e-45, 0.0), (1e-6, 0.0), (0.001, 0.001)])
async def test_a_temperature_near_zero_is_the_greedy_limit(temperature: float, used: float) -> None:
    [request] = await prepared(GenerateCall(None, ("abc",), SamplingWishes(temperature=temperature)))
    assert request.sampling.temperature == used


async def test_a_call_without_a_limit_may_fill_what_context_and_cache_allow() -> None:
    for blocks, longest in ((65, CONTEXT), (17, 64)):
        [request] = await prepared(GenerateCall(None, ("abc",), fill_context=True), model(blocks=blocks))
        assert request.sampling.max_tokens == longest - 3


async def test_choices_draw_each_on_its_own_and_the_same_each_time() -> None:
    call = GenerateCall(None, ("abc", "de"), SamplingWishes(seed=42), n=4)
    seeds = [request.sampling.seed for request in await prepared(call)]
    assert seeds == [request.sampling.seed for request in await prepared(call)]
    assert seeds[0] == 42 and len(set(seeds[:4])) == 4 and seeds[:4] == seeds[4:]
    for extreme in (-(2**63), -1, 2**63 - 1):
        [request] = await prepared(GenerateCall(None, ("abc",), SamplingWishes(seed=extreme)))
        assert 0 <= request.sampling.seed < 2**63


async def test_without_a_seed_every_request_has_a_fresh_one() -> None:
    seeds = {request.sampling.seed for _ in range(20) for request in await prepared(GenerateCall(None, ("abc",)))}
    assert len(seeds) == 20


@pytest.mark.parametrize(("seconds", "deadline"), [(3.0, 103.0), (1e9, 700.0), (-1.0, 99.0), (None, 700.0)])
async def test_the_nearer_deadline_counts(seconds: float | None, deadline: float) -> None:
    [request] = await prepared(GenerateCall(None, ("abc",), seconds=seconds))
    assert request.deadline == deadline


async def test_each_choice_has_a_stop_condition_of_its_own() -> None:
    one, other = await prepared(GenerateCall(None, ("abc",), SamplingWishes(stop=("xy",)), n=2))
    assert one.stop is not None and other.stop is not None
    assert [one.stop.push(ord("x")), other.stop.push(ord("y")), one.stop.push(ord("y"))] == [False, False, True]


async def test_stop_strings_and_texts_know_the_prompt_before_them() -> None:
    """A tokenizer that takes the space off the first word of a text: of the prompt's, not of the answer's."""
    backend = Backend(WordLevel({"▁a": 0, "▁b": 1}))
    backend.decoder = Metaspace()
    served = dataclasses.replace(model(), tokenizer=Tokenizer(backend, frozenset()))
    call = GenerateCall(None, ((0, 0),), SamplingWishes(stop=(" a b",)))
    [request] = await prepared(call, served)
    text = visible_text(call, served, request.prompt, request.sampling.min_tokens)
    assert request.stop is not None and [request.stop.push(i) for i in (1, 0, 1)] == [False, False, True]
    assert "".join(map(text.push, (1, 0, 1))) == " b" and text.stopped


async def test_a_template_that_writes_an_id_beyond_the_model_is_refused() -> None:
    class Images(ByteTokenizer):
        chat = True

        def render_chat(self, messages: Any) -> list[int]:
            return [1, 400]

    served = dataclasses.replace(model(), tokenizer=Images(500))
    with pytest.raises(
        InvalidValue, match="the prompt has the token id 400; token ids of this model run from 0 to"
    ) as no:
        await prepared(GenerateCall(None, (Conversation((Message("user", "x"),)),)), served)
    assert no.value.param == "messages"


@pytest.mark.parametrize("asked", ["echo", "prompt_logprobs"])
async def test_an_encoder_has_no_log_probabilities_however_they_are_asked_for(asked: str) -> None:
    served = dataclasses.replace(model(), answer_start=(0,))
    call = GenerateCall(None, ("abc",), prompt_logprobs=1, echo=asked == "echo")
    with pytest.raises(UnsupportedField, match=f"^{asked}: model .* reads its prompt with an encoder") as no:
        await prepared(call, served)
    assert no.value.param == asked


async def test_short_texts_are_done_at_once_and_long_ones_beside_the_loop() -> None:
    texts = TextWork(Limits(queue=2))
    assert await texts.run(LONG_TEXT, threading.current_thread) is threading.current_thread()
    assert await texts.run(LONG_TEXT + 1, threading.current_thread) is not threading.current_thread()
    texts.close()


async def test_never_two_texts_at_once() -> None:
    texts, inside = TextWork(Limits(queue=8)), []

    def work() -> None:
        inside.append("in")
        time.sleep(0.02)
        assert inside.pop() == "in" and not inside

    await asyncio.gather(*(texts.run(size, work) for size in (LONG_TEXT + 1, 1, LONG_TEXT + 1, 1)))
    assert (await texts.run(1, threading.current_thread)) is threading.current_thread(), "free again"
    texts.close()


async def test_who_leaves_makes_room() -> None:
    texts, gate = TextWork(Limits(queue=2)), threading.Event()
    waiting = [asyncio.create_task(texts.run(LONG_TEXT + 1, gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await texts.run(LONG_TEXT + 1, gate.wait)
    waiting[1].cancel()
    await asyncio.wait(waiting[1:])
    await asyncio.sleep(0.01)
    late = asyncio.create_task(texts.run(1, lambda: 7))
    await asyncio.sleep(0)
    gate.set()
    assert await late == 7 and await waiting[0]
    texts.close()
