"""Whoever is refused for now is told when to come back: everywhere what the limits say, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from model.tokenizer import ByteTokenizer
from server.call import Guidance, GuidanceKind
from server.engine.step import DeviceLost, Step
from server.errors import ForNow, QueueFull
from server.guidance.guides import Guides
from server.limits import Limits
from server.textwork import LONG_TEXT, TextWork
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller
from tests.server.doors import until
from tests.server.kit import Harness, fake_model, running
from tests.server.operators import Operator, RestOperator, RpcOperator

LIMITS = Limits(retry_after_seconds=30)
LONG = {"prompt": "abc", "max_tokens": 200, "ignore_eos": True}
transports = pytest.mark.parametrize("transport", ["rest", "grpc"])


@asynccontextmanager
async def busy(transport: str, **more: Any) -> AsyncIterator[tuple[Harness, Caller, Operator]]:
    """A server that takes its time, a caller and an operator; `more` as `running` has it."""
    model = fake_model(sleep=0.01, fault=more.pop("fault", _nothing))
    async with (
        running(model, limits=LIMITS, **more) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        if transport == "rest":
            yield server, RestCaller(server), RestOperator(server)
        else:
            yield server, RpcCaller(channel), RpcOperator(channel)


def _nothing(step: Step) -> None:
    pass


async def refusal(work: Awaitable[Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        await work
    return caught.value


async def refused(work: Awaitable[Any]) -> tuple[str, float | None]:
    told = await refusal(work)
    return told.code, told.retry


@transports
async def test_while_the_server_loads(transport: str) -> None:
    async with busy(transport, loading=True) as (_, caller, operator):
        call, load = [await refusal(work) for work in (caller.whole(prompt="abc"), operator.load("new=fake"))]
        assert (call.code, call.retry) == (load.code, load.retry) == ("loading", 30)
        assert call.message == load.message, "one thing has one name"


@transports
async def test_who_is_cut_off_by_an_unloading(transport: str) -> None:
    async with busy(transport) as (server, caller, operator):
        call = asyncio.create_task(refused(caller.whole(**LONG)))
        await until(lambda: server.app.service.active)
        assert await operator.unload("fake", drain_seconds=0) == 1
        assert await call == ("draining", 30)
        assert await refused(caller.whole(prompt="abc")) == ("no_model", 30)


@transports
async def test_who_is_cut_off_by_the_end_of_the_server(transport: str) -> None:
    async with busy(transport, drain_seconds=0.1) as (server, caller, operator):
        call = asyncio.create_task(refused(caller.whole(**LONG)))
        loading = asyncio.create_task(refused(operator.load("new=late")))
        await until(lambda: server.app.service.active and server.app.administration._work)
        await server.app.drain()
        assert await call == ("draining", 30)
        assert await loading == ("draining", 30)


@transports
async def test_under_whom_the_engine_dies(transport: str) -> None:
    dies = asyncio.Event()

    def fault(step: Step) -> None:
        if dies.is_set():
            raise DeviceLost("the device is gone")

    async with busy(transport, fault=fault) as (server, caller, operator):
        call = asyncio.create_task(refused(caller.whole(**LONG)))
        await until(lambda: server.app.service.active)
        dies.set()
        assert await call == ("engine_down", 30)
        assert await refused(operator.reset("fake")) == ("engine_down", 30)
        assert await refused(operator.load("new=fake")) == ("engine_down", 30)
        async with server.session.get(f"{server.url}/livez") as response:
            assert response.status == 503 and response.headers["retry-after"] == "30"


async def test_what_waits_beside_the_engine() -> None:
    full = Limits(retry_after_seconds=30, queue=0)
    texts, guides = TextWork(full), Guides(full)
    model: Any = fake_model()
    form = Guidance(GuidanceKind.REGEX, "guided_regex", "a")
    try:
        with pytest.raises(QueueFull) as text:
            await texts.run(LONG_TEXT + 1, lambda: ByteTokenizer().encode("a"))
        with pytest.raises(QueueFull) as guide:
            await guides.constraints(form, model, 1, endless=False)
        assert (text.value.retry_after, guide.value.retry_after) == (30, 30)
    finally:
        texts.close()
        guides.close()


def test_nobody_can_forget_to_say_it() -> None:
    with pytest.raises(TypeError, match="retry_after"):
        ForNow("not now")  # type: ignore[call-arg]
