"""Live routing on both transports: what is told adds up, bounds hold, nobody who watches holds anything up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.limits import Limits
from tests.server.callers import Refused, RestCaller, fields, refused, rpc_refused
from tests.server.kit import ACTIVE, LAYERS, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

Watch: TypeAlias = Callable[..., AsyncIterator[dict[str, Any]]]


def watch_over_rest(server: Harness) -> Watch:
    async def watch(**wish: Any) -> AsyncIterator[dict[str, Any]]:
        query = {name: str(value) for name, value in wish.items()}
        async with server.session.get(f"{server.url}/v1/routing", params=query) as response:
            if response.status != 200:
                raise refused(response.status, await response.json(), response.headers)
            assert response.headers["content-type"].startswith("text/event-stream")
            async for line in response.content:
                if line == b"data: [DONE]\n":
                    return
                if line == b"\n":
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise refused(0, event, {}, begun=True)
                yield event
            pytest.fail("the stream ended without a last word")

    return watch


def watch_over_rpc(server: Harness) -> Watch:
    async def watch(**wish: Any) -> AsyncIterator[dict[str, Any]]:
        async with grpc.aio.insecure_channel(server.target) as channel:
            call = InferenceServiceStub(channel).WatchRouting(pb.WatchRoutingRequest(**wish))
            try:
                async for message in call:
                    layers = [fields(layer) | {"expert_tokens": [*layer.expert_tokens]} for layer in message.layers]
                    yield fields(message) | {"layers": layers}
            except grpc.aio.AioRpcError as error:
                raise rpc_refused(error, begun=False) from None
            finally:
                call.cancel()

    return watch


TRANSPORTS = pytest.mark.parametrize("over", [watch_over_rest, watch_over_rpc], ids=["rest", "grpc"])


@pytest.fixture(params=[watch_over_rest, watch_over_rpc], ids=["rest", "grpc"])
def watch(request: pytest.FixtureRequest, server: Harness) -> Watch:
    made: Watch = request.param(server)
    return made


async def first(loads: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    async with aclosing(loads) as told:  # type: ignore[type-var]
        return await anext(told)


async def test_what_is_told_adds_up_to_what_was_computed(watch: Watch, server: Harness) -> None:
    """Several watchers at different paces see the same tokens, none twice and none left out."""
    told: list[list[dict[str, Any]]] = [[], []]
    enough = asyncio.Event()

    async def look(at: int, interval: float) -> None:
        async with aclosing(watch(model="slow", interval=interval)) as loads:  # type: ignore[type-var]
            async for load in loads:
                told[at].append(load)
                if enough.is_set() and not load["tokens"]:
                    return

    watchers = [asyncio.create_task(look(0, 0.1)), asyncio.create_task(look(1, 0.25))]
    await asyncio.sleep(0.15)
    before = await server.total("dyno_computed_tokens_total", model="slow")
    experts = await server.total("dyno_layer_expert_tokens_total", model="slow")
    caller = RestCaller(server)
    await asyncio.gather(*(caller.whole(model="slow", prompt=f"{i} abc", max_tokens=9) for i in range(5)))
    await server.settled()
    enough.set()
    await asyncio.gather(*watchers)
    tokens = await server.total("dyno_computed_tokens_total", model="slow") - before
    routed = await server.total("dyno_layer_expert_tokens_total", model="slow") - experts
    for loads in told:
        assert sum(load["tokens"] for load in loads) == tokens > 0
        assert sum(sum(layer["expert_tokens"]) for load in loads for layer in load["layers"]) == routed
        for load in loads:
            assert [layer["layer"] for layer in load["layers"]] == list(range(LAYERS))
            assert all(sum(layer["expert_tokens"]) == load["tokens"] * ACTIVE for layer in load["layers"])
    assert len(told[0]) > len(told[1])
    busy = max(told[1], key=lambda load: load["tokens"])
    for layer in busy["layers"]:
        assert 0 < layer["entropy"] <= 1 <= layer["imbalance"] and 0 < layer["margin"] < 1
        assert ACTIVE <= layer["distinct_experts"] <= len(layer["expert_tokens"])


@TRANSPORTS
async def test_an_idle_model_is_told_of_too(over: Callable[[Harness], Watch], server: Harness) -> None:
    load = await first(over(server)(model="fake", interval=0.1))
    assert (load["model"], load["tokens"], load["passes"], load["running"]) == ("fake", 0, 0, 0)
    assert load["seconds"] == pytest.approx(0.1, abs=0.25)
    names = ("entropy", "imbalance", "busiest_share", "distinct_experts", "margin")
    nothing = None if over is watch_over_rest else 0  # a collapse would have an entropy of 0; there was no load
    assert all(layer[name] == nothing for layer in load["layers"] for name in names)


@pytest.mark.parametrize(
    ("wish", "kind", "param"),
    [
        ({"model": "nobody"}, "not found", "model"),
        ({"model": "chat"}, "invalid", "model"),
        ({}, "invalid", "model"),
        ({"model": "fake", "interval": 0.05}, "invalid", "interval"),
        ({"model": "fake", "interval": 61}, "invalid", "interval"),
        ({"model": "fake", "interval": float("nan")}, "invalid", "interval"),
        ({"model": "fake", "interval": float("inf")}, "invalid", "interval"),
    ],
    ids=str,
)
async def test_what_cannot_be_watched_is_refused(wish: dict[str, Any], kind: str, param: str, watch: Watch) -> None:
    with pytest.raises(Refused) as refusal:
        await first(watch(**wish))
    assert (refusal.value.kind, refusal.value.param) == (kind, param)


@pytest.mark.parametrize(
    ("query", "param"),
    [("intervall=1", "intervall"), ("interval=soon", "interval"), ("interval=1&interval=2", "interval")],
)
async def test_queries_are_checked(query: str, param: str, server: Harness) -> None:
    async with server.session.get(f"{server.url}/v1/routing?model=fake&{query}") as response:
        assert response.status == 400 and (await response.json())["error"]["param"] == param


@TRANSPORTS
async def test_watchers_are_limited_and_those_that_leave_make_room(over: Callable[[Harness], Watch]) -> None:
    async with running(fake_model(), limits=Limits(watchers=2)) as harness:
        watch = over(harness)
        async with aclosing(watch(interval=0.1)) as one, aclosing(watch(interval=0.1)) as two:  # type: ignore[type-var]
            await asyncio.gather(anext(one), anext(two))
            with pytest.raises(Refused) as refusal:
                await first(watch(interval=0.1))
            assert (refusal.value.kind, refusal.value.code) == ("exhausted", "too_many_watchers")
            assert refusal.value.retry == 1
        for _ in range(100):
            try:
                await first(watch(interval=0.1))
                break
            except Refused:
                await asyncio.sleep(0.02)
        else:
            pytest.fail("nobody may watch although nobody does")


@TRANSPORTS
async def test_a_drain_ends_them_and_does_not_wait(over: Callable[[Harness], Watch]) -> None:
    """The stream ends whole, long before its next load would have come."""
    async with running(fake_model(), drain_seconds=20) as harness:
        told: list[dict[str, Any]] = []

        async def look() -> None:
            async for load in over(harness)(interval=30):
                told.append(load)

        watcher = asyncio.create_task(look())
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await harness.app.drain()
        await asyncio.wait_for(watcher, 3)
        assert time.monotonic() - began < 3 and told == []


@TRANSPORTS
async def test_a_dead_engine_is_no_good_end(over: Callable[[Harness], Watch]) -> None:
    async with running(fake_model()) as harness, aclosing(over(harness)(interval=0.1)) as loads:  # type: ignore[type-var]
        await anext(loads)
        loop = harness.app.service._loop
        assert loop is not None
        await loop.stop()
        with pytest.raises(Refused) as refusal:
            while True:
                await anext(loads)
    assert refusal.value.code == "engine_down"


@TRANSPORTS
async def test_an_unloaded_model_ends_the_watch(over: Callable[[Harness], Watch]) -> None:
    async with running(fake_model("a"), fake_model("b")) as harness:
        loads = over(harness)(model="a", interval=0.1)
        await anext(loads)
        harness.app.service.remove("a")
        async for _ in loads:
            pass


@TRANSPORTS
async def test_who_leaves_is_forgotten(over: Callable[[Harness], Watch]) -> None:
    async with running(fake_model()) as harness:
        await first(over(harness)(interval=0.1))
        for _ in range(100):
            if not harness.app.service.watch._watchers:
                return
            await asyncio.sleep(0.02)
        pytest.fail("a watcher that left is still counted")


async def test_a_slow_reader_gets_fewer_loads_and_all_tokens(watch: Watch, server: Harness) -> None:
    caller = RestCaller(server)
    async with aclosing(watch(model="slow", interval=0.1)) as loads:  # type: ignore[type-var]
        await anext(loads)
        before = await server.total("dyno_computed_tokens_total", model="slow")
        await caller.whole(model="slow", prompt="abc", max_tokens=20, ignore_eos=True)
        await server.settled()
        tokens = await server.total("dyno_computed_tokens_total", model="slow") - before
        told = 0
        while told < tokens:
            told += (await anext(loads))["tokens"]
        assert told == tokens
