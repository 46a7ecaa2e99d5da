"""A caller that is gone is gone from the engine: streams and whole answers, on both transports, at every stage."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import grpc
import pytest

from server.engine.step import Pick, Row
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller, hang_up_after, leave_unanswered
from tests.server.kit import Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = {"model": "slow", "prompt": "abc", "max_tokens": 200, "ignore_eos": True}


async def gone_within(server: Harness, seconds: float) -> None:
    began = time.monotonic()
    await server.settled()
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("n", [1, 4])
async def test_hanging_up_a_stream_ends_its_requests(caller: Caller, server: Harness, n: int) -> None:
    before = await server.total("dyno_requests_total", outcome="cancelled")
    await hang_up_after(caller, 3, **LONG, n=n)
    await gone_within(server, 1.0)
    assert await server.total("dyno_requests_total", outcome="cancelled") == before + n


async def test_an_answer_that_its_caller_left_is_none(server: Harness) -> None:
    async def answers(code: str) -> float:
        return await server.total("dyno_transport_requests_total", method="/v1/completions", code=code)

    before = [await answers(code) for code in ("200", "499")]
    await hang_up_after(RestCaller(server), 3, **LONG)
    await server.settled()
    assert [await answers(code) for code in ("200", "499")] == [before[0], before[1] + 1]


@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_before_a_whole_answer_ends_its_requests(caller: Caller, server: Harness, n: int) -> None:
    before = await server.total("dyno_requests_total", outcome="cancelled")
    await leave_unanswered(caller, 0.1, **LONG, n=n)
    await gone_within(server, 1.0)
    assert await server.total("dyno_requests_total", outcome="cancelled") == before + n


async def test_a_request_that_is_left_in_the_queue_never_runs(caller: Caller, server: Harness) -> None:
    running = [asyncio.create_task(caller.stream(**LONG | {"max_tokens": 25})) for _ in range(8)]
    await asyncio.sleep(0.1)
    computed = await server.total("dyno_computed_tokens_total", model="slow", phase="prefill")
    await leave_unanswered(caller, 0.05, **LONG)
    await asyncio.gather(*running)
    await server.settled()
    assert await server.total("dyno_computed_tokens_total", model="slow", phase="prefill") == computed


async def test_choices_that_are_left_when_one_has_ended_are_freed(
    caller: Caller, server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(row: Row, pick: Pick) -> int:
        """The second choice says aa!, the others aaa and so on."""
        return b"!"[0] if row.request.id.endswith("-1") and pick.number == 2 else b"a"[0]

    async def ended() -> list[float]:
        return [await server.total("dyno_requests_total", outcome=outcome) for outcome in ("stop", "cancelled")]

    monkeypatch.setattr(server.models["slow"].engine._runner, "_draw", draw)
    stops, cancelled = await ended()
    stream = caller.pieces(**LONG, n=4, stop=["!"])
    async for _ in stream:
        if any(generation.ended for generation in server.app.service.active):
            break
    await stream.aclose()  # type: ignore[attr-defined]
    await gone_within(server, 1.0)
    assert await ended() == [stops + 1, cancelled + 3]


async def test_complete_answers_cancel_nothing(caller: Caller, server: Harness) -> None:
    before = await server.total("dyno_requests_total", outcome="cancelled")
    await asyncio.gather(*(caller.stream(model="fake", prompt=f"p{i}", max_tokens=5) for i in range(40)))
    await server.settled()
    assert await server.total("dyno_requests_total", outcome="cancelled") == before


async def test_leaving_at_any_moment_loses_nothing(caller: Caller, server: Harness) -> None:
    chance = random.Random(7)
    before = await server.total("dyno_requests_received_total", model="slow")

    async def one() -> None:
        if chance.random() < 0.5:
            await leave_unanswered(caller, chance.uniform(0, 0.2), **LONG | {"max_tokens": 12})
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(caller.stream(**LONG | {"max_tokens": 12}), chance.uniform(0, 0.2))

    await asyncio.gather(*(one() for _ in range(32)))
    await server.settled()
    received = await server.total("dyno_requests_received_total", model="slow") - before
    assert 0 < received <= 32


@pytest.mark.parametrize("seconds", [0.05, 0.3])
async def test_a_deadline_ends_the_request_here_too(channel: grpc.aio.Channel, server: Harness, seconds: float) -> None:
    caller = RpcCaller(channel)
    before = await server.total("dyno_requests_total", outcome="deadline")
    for call in (caller.whole, caller.stream):
        with pytest.raises(Refused) as refused:
            await call(**LONG, seconds=seconds)
        assert refused.value.kind == "deadline"
    await gone_within(server, 1.0)
    assert await server.total("dyno_requests_total", outcome="deadline") == before + 2


async def test_nobody_waits_longer_than_the_server_allows() -> None:
    async with running(fake_model(sleep=0.01), request_seconds=0.15) as server:
        caller = RestCaller(server)
        with pytest.raises(Refused) as refused:
            await caller.whole(prompt="abc", max_tokens=200, ignore_eos=True)
        assert refused.value.kind == "deadline" and not refused.value.begun
        with pytest.raises(Refused) as refused:
            await caller.stream(prompt="abc", max_tokens=200, ignore_eos=True)
        assert refused.value.code == "deadline_exceeded" and refused.value.begun, "an error event, and no [DONE]"
        await server.settled()
        assert await server.total("dyno_requests_total", outcome="deadline") == 2
