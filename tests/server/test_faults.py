"""Faults of ours: told as such, without a word of what is inside, and only to those they concern."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from model.tokenizer import ByteTokenizer
from server.engine.request import Request
from server.engine.step import DeviceLost, Row, Step
from server.models import ServedModel
from server.premises import StartupError
from server.textwork import LONG_TEXT
from tests.fakes import continuation
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller
from tests.server.kit import VOCAB, Harness, ModelOf, build_fakes, fake_model, running, settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

POISON = b"poison"
SERVING = health_pb2.HealthCheckResponse.SERVING
SECRET = "weights at /srv/secret 0x7f00"


def poisoned(request: Request) -> bool:
    return bytes(request.prompt[: len(POISON)]) == POISON


def failing(step: Step) -> None:
    if any(poisoned(row.request) for row in step.rows):
        raise RuntimeError(SECRET)


def without_a_number(row: Row) -> bool:
    return poisoned(row.request)


def dying(step: Step) -> None:
    if any(poisoned(row.request) and row.request.outputs for row in step.rows):
        raise DeviceLost(SECRET)


def untellable() -> ModelOf:
    """A model whose tokenizer cannot read what the model says."""

    def build(observer: Any) -> ServedModel:
        model = fake_model()(observer)
        model.tokenizer._pieces = model.tokenizer._pieces[:10]  # type: ignore[index]
        return model

    return build


async def health_of(channel: grpc.aio.Channel) -> int:
    health = health_pb2_grpc.HealthStub(channel)
    status: int = (await health.Check(health_pb2.HealthCheckRequest())).status  # type: ignore[attr-defined]
    return status


def caller_of(transport: str, server: Harness, channel: grpc.aio.Channel) -> Caller:
    return RestCaller(server) if transport == "rest" else RpcCaller(channel)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("fault", [{"fault": failing}, {"nan": without_a_number}], ids=["exception", "nan"])
async def test_a_request_that_the_model_fails_on_is_alone_with_it(transport: str, fault: dict[str, Any]) -> None:
    async with running(fake_model(sleep=0.005, **fault)) as server, grpc.aio.insecure_channel(server.target) as channel:
        caller = caller_of(transport, server, channel)
        others = [asyncio.create_task(caller.stream(prompt=f"p{i}", max_tokens=20)) for i in range(4)]
        await asyncio.sleep(0.05)
        for call in (caller.whole, caller.stream):
            with pytest.raises(Refused) as refused:
                await call(prompt=POISON.decode(), max_tokens=5)
            assert refused.value.kind == "internal" and refused.value.code == "internal_error"
            assert "secret" not in refused.value.message and "nan" not in refused.value.message
        for i, [told] in enumerate(await asyncio.gather(*others)):
            assert told.tokens == continuation(f"p{i}".encode(), 20, VOCAB)
        await server.settled()
        assert await server.total("dyno_requests_total", outcome="error") == 2


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_when_one_choice_fails_all_of_them_have_failed(transport: str) -> None:
    def second(row: Row) -> bool:
        return row.request.id.endswith("-1")

    async with running(fake_model(sleep=0.005, nan=second)) as server, grpc.aio.insecure_channel(server.target) as chan:
        with pytest.raises(Refused) as refused:
            await caller_of(transport, server, chan).whole(prompt="abc", max_tokens=200, ignore_eos=True, n=3)
        assert refused.value.code == "internal_error"
        await server.settled()
        assert await server.total("dyno_requests_total", outcome="error") == 3


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_an_unexpected_error_of_the_service_tells_its_id_only(transport: str) -> None:
    async with running(untellable()) as server, grpc.aio.insecure_channel(server.target) as channel:
        caller = caller_of(transport, server, channel)
        for call in (caller.whole, caller.stream):
            with pytest.raises(Refused) as refused:
                await call(prompt="abc", max_tokens=50, temperature=0)
            assert refused.value.code == "internal_error"
            assert "IndexError" not in refused.value.message and "its id is" in refused.value.message
        await server.settled()
        async with server.session.post(f"{server.url}/detokenize", json={"tokens": [100]}) as response:
            assert response.status == 500
            assert response.headers["x-request-id"] in (await response.json())["error"]["message"]


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_a_dead_engine_is_told_to_everybody(transport: str) -> None:
    model = fake_model(sleep=0.005, fault=dying)
    async with running(model) as server, grpc.aio.insecure_channel(server.target) as channel:
        caller = caller_of(transport, server, channel)
        other = asyncio.create_task(caller.stream(prompt="innocent", max_tokens=200, ignore_eos=True))
        await asyncio.sleep(0.05)
        with pytest.raises(Refused) as refused:
            await caller.stream(prompt=POISON.decode(), max_tokens=200)
        assert refused.value.code == "engine_down" and refused.value.begun
        with pytest.raises(Refused):
            await other
        async with asyncio.timeout(2):
            while server.app.service.alive or await health_of(channel) == SERVING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for path, status in (("/livez", 503), ("/readyz", 503), ("/metrics", 200)):
            async with server.session.get(server.url + path) as response:
                assert response.status == status
                assert "secret" not in await response.text()
        with pytest.raises(Refused) as refused:
            await caller.whole(prompt="abc")
        assert (refused.value.kind, refused.value.code) == ("unavailable", "engine_down")
        assert server.app.leaving.is_set() and await server.total("dyno_phase", phase="down") == 1
        await server.settled()  # and every request is told to have ended
        # Two that the engine died under, and one that came when it was dead.
        assert await server.total("dyno_requests_total", model="fake", outcome="error") == 3


class Torn(list[bytes]):
    """The pieces of a tokenizer, one of which cannot be read."""

    torn = -1

    def __getitem__(self, token: Any) -> Any:
        if token == self.torn:
            raise KeyError(SECRET)
        return super().__getitem__(token)


class Choosy(ByteTokenizer):
    """Cannot tokenise what begins with poison, and cannot read one token."""

    def __init__(self, torn: int) -> None:
        super().__init__()
        self._pieces = Torn(self._pieces or ())
        self._pieces.torn = torn

    def encode(self, text: str, *, framed: bool = True, markup: bool = False) -> list[int]:
        if text.encode().startswith(POISON):
            raise RuntimeError(SECRET)
        return super().encode(text)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("stop", [None, "never said"], ids=["detokenizer", "stop"])
async def test_a_text_that_cannot_be_made_or_read_fails_alone(transport: str, stop: str | None) -> None:
    wish: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True} | ({} if stop is None else {"stop": stop})
    good = [f"p{i}" for i in range(4)]
    said = {prompt: continuation(prompt.encode(), 12, VOCAB) for prompt in ("bac", *good)}
    torn = said["bac"][4]
    assert not any(torn in said[prompt] for prompt in good)

    def build(observer: Any) -> ServedModel:
        return dataclasses.replace(fake_model(sleep=0.002)(observer), tokenizer=Choosy(torn))

    async with running(build) as server, grpc.aio.insecure_channel(server.target) as channel:
        caller = caller_of(transport, server, channel)
        others = [asyncio.create_task(caller.stream(prompt=prompt, **wish)) for prompt in good]
        for prompt in ("bac", POISON.decode(), POISON.decode() * LONG_TEXT):
            for call in (caller.whole, caller.stream):
                with pytest.raises(Refused) as refused:
                    await call(prompt=prompt, **wish)
                assert refused.value.code == "internal_error" and "secret" not in refused.value.message
        for prompt, [told] in zip(good, await asyncio.gather(*others), strict=True):
            assert told.tokens == said[prompt]
        await server.settled()
        assert server.app.service.alive


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_a_text_that_cannot_be_made_counts_as_failed(transport: str, n: int) -> None:
    """And not as if its caller had left."""
    torn = continuation(b"bac", 5, VOCAB)[-1]

    def build(observer: Any) -> ServedModel:
        return dataclasses.replace(fake_model(sleep=0.005)(observer), tokenizer=Choosy(torn))

    async with running(build) as server, grpc.aio.insecure_channel(server.target) as channel:
        caller = caller_of(transport, server, channel)
        for call in (caller.whole, caller.stream):
            with pytest.raises(Refused):
                await call(prompt="bac", max_tokens=200, ignore_eos=True, temperature=0, n=n)
        await server.settled()
        assert await server.total("dyno_requests_total", outcome="error") == 2 * n


async def test_a_warm_up_that_builds_is_no_stall() -> None:
    def compiling(observer: Any) -> ServedModel:
        return build_fakes(settings(model=("compiling",)), observer)[0]

    async with running(compiling, stall_seconds=0.1) as server:
        assert server.app.service.alive and await server.total("dyno_requests_running") == 0


@pytest.mark.parametrize("error", [RuntimeError, DeviceLost])
async def test_a_model_that_fails_its_warm_up_is_not_served(error: type[Exception]) -> None:
    def broken(step: Step) -> None:
        raise error("no such kernel")

    with pytest.raises(StartupError, match=r"model fake fails: .*no such kernel"):
        async with running(fake_model(fault=broken)):
            pass
