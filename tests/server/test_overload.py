"""Too much work: refused with a time to come back, never lost, never left to wait for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from server.limits import Limits
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller
from tests.server.kit import CONTEXT, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUSY = {"prompt": "abc", "max_tokens": 30, "ignore_eos": True}


@asynccontextmanager
async def crowded(transport: str, **more: Any) -> AsyncIterator[tuple[Harness, Caller]]:
    """A server with one place in the batch, and a caller."""
    model = fake_model(sleep=0.01, rows=1)
    async with running(model, **more) as server, grpc.aio.insecure_channel(server.target) as channel:
        yield server, RestCaller(server) if transport == "rest" else RpcCaller(channel)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_a_full_queue_refuses_and_says_when_to_come_back(transport: str) -> None:
    async with crowded(transport, queue=3) as (server, caller):
        calls = [asyncio.create_task(caller.stream(**BUSY)) for _ in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert 6 <= len(refused) <= 7  # three may wait, and one may have found its place before the last came
        for refusal in refused:
            assert (refusal.kind, refusal.code, refusal.retry) == ("exhausted", "queue_full", 1)
            assert "3" in refusal.message
        await server.settled()
        assert await server.total("dyno_requests_total", outcome="shed") == len(refused)
        assert await server.total("dyno_requests_total", outcome="length") == 10 - len(refused)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_a_call_of_many_choices_is_refused_whole(transport: str) -> None:
    async with crowded(transport, queue=3) as (server, caller):
        with pytest.raises(Refused, match="queue"):
            await caller.whole(**BUSY, n=4)
        assert await server.total("dyno_computed_tokens_total") == 0
        await server.settled()


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_what_is_refused_counts_for_as_many_answers_as_it_asked_for(transport: str) -> None:
    prompts, each = ([[1, 2, 3]] * 3, 12) if transport == "rest" else ([1, 2, 3], 4)  # a call of gRPC has one
    many = {"token_ids": prompts, "n": 4, "max_tokens": 30, "ignore_eos": True}
    async with crowded(transport, queue=each) as (server, caller):
        answers = await asyncio.gather(*(caller.stream(**many) for _ in range(6)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        wrong: list[dict[str, Any]] = [{"temperature": -1}]
        if transport == "rest":  # found while the call is made of the body
            wrong.append({"stream_options": {"include_usage": True}})
        for wish in wrong:
            with pytest.raises(Refused, match=next(iter(wish))):
                await caller.whole(**many, **wish)
        await server.settled()
        assert 4 <= len(refused) <= 5
        assert await server.total("dyno_requests_received_total") == (6 + len(wrong)) * each
        assert await server.total("dyno_requests_total", outcome="shed") == len(refused) * each
        assert await server.total("dyno_requests_total", outcome="rejected", model="fake") == len(wrong) * each


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_waiting_too_long_ends_in_a_refusal(transport: str) -> None:
    async with crowded(transport, queue_seconds=0.1) as (server, caller):
        first = asyncio.create_task(caller.stream(**BUSY))
        await asyncio.sleep(0.05)
        for call in (caller.whole, caller.stream):
            with pytest.raises(Refused) as refused:
                await call(**BUSY)
            assert (refused.value.kind, refused.value.code) == ("unavailable", "queue_timeout")
            assert refused.value.retry == 1 and not refused.value.begun
        [told] = await first
        assert len(told.tokens) == 30, "who runs is not disturbed"
        await server.settled()


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_more_than_the_cache_holds_is_told_at_once(transport: str) -> None:
    async with running(fake_model(blocks=9)) as server, grpc.aio.insecure_channel(server.target) as channel:
        caller: Caller = RestCaller(server) if transport == "rest" else RpcCaller(channel)
        with pytest.raises(Refused) as refused:
            await caller.whole(prompt="x" * 30, max_tokens=3)
        assert refused.value.code == "context_length_exceeded"
        length = f"This model's maximum context length is {CONTEXT} tokens, of which the cache holds 32; "
        assert refused.value.message.startswith(length)
        [told] = await caller.whole(prompt="x" * 30, max_tokens=2, ignore_eos=True)
        assert len(told.tokens) == 2


async def test_long_texts_do_not_hold_up_the_others() -> None:
    """They are tokenised beside the event loop, and what waits there is bounded too."""
    async with running(fake_model(), limits=Limits(queue=2)) as server:
        caller = RestCaller(server)
        long = [asyncio.create_task(caller.whole(prompt="x" * 500_000)) for _ in range(12)]
        answers = await asyncio.gather(*long, return_exceptions=True)
        codes = {answer.code for answer in answers if isinstance(answer, Refused)}
        assert len(answers) == 12 and codes <= {"context_length_exceeded", "queue_full"}
        assert await caller.whole(prompt="abc")
        await server.settled()
