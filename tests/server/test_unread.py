"""Streams that nobody reads: cut when too much waits behind a write, and whoever reads is left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.limits import Limits
from server.transport import stall
from tests.server.callers import Caller, RestCaller, RpcCaller
from tests.server.doors import until
from tests.server.kit import Harness, fake_model, running

LENGTH = 60_000
LONG = {"prompt": "x", "max_tokens": LENGTH, "logprobs": 1}


@asynccontextmanager
async def serving(limits: Limits) -> AsyncIterator[Harness]:
    """A model that talks for long; its name stands in every event of REST, and soon fills what the kernel takes."""
    model = fake_model("m" * 1000, script=b"x" * LENGTH, moe=False, context=1 << 17, blocks=1 << 15)
    async with running(model, limits=limits) as server:
        yield server


@asynccontextmanager
async def unread_rest(server: Harness, n: int) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.app.http_port, limit=1 << 12)
    body = json.dumps({**LONG, "n": n, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(b"data: ")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    yield reader
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    told = b""
    try:
        while more := await asyncio.wait_for(reader.read(1 << 20), 5):
            told = told[-100:] + more
    except ConnectionError:
        pass
    assert b"[DONE]" not in told and not told.endswith(b"0\r\n\r\n"), "it does not look complete"
    writer.close()


@asynccontextmanager
async def unread_rpc(server: Harness, n: int) -> AsyncIterator[Any]:
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        sampling = pb.SamplingParameters(max_tokens=LENGTH)
        request = pb.GenerateRequest(prompt="x", sampling=sampling, logprobs=1, n=n)
        call = InferenceServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest(request=request))
        await call.read()
        yield call
        with pytest.raises(grpc.aio.AioRpcError) as said:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert said.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@asynccontextmanager
async def unread_many(server: Harness, n: int) -> AsyncIterator[Any]:
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        sampling = pb.SamplingParameters(max_tokens=LENGTH)
        start = pb.GenerateStart(request=pb.GenerateRequest(prompt="x", sampling=sampling, logprobs=1))
        call = InferenceServiceStub(channel).GenerateMany()
        await call.write(pb.GenerateManyRequest(actions=[pb.GenerateAction(tag=tag, start=start) for tag in range(n)]))
        await call.read()
        yield call
        with pytest.raises(grpc.aio.AioRpcError) as said:
            while (message := await call.read()) is not grpc.aio.EOF:
                assert len(message.events) <= server.app.service.limits.unsent_events + n
        assert said.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("unread", [unread_rest, unread_rpc, unread_many])
async def test_a_stream_that_nobody_reads_is_ended_before_its_end(
    unread: Any, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before a write has waited its time."""
    monkeypatch.setattr(stall, "LOOK_SECONDS", 0.2)
    async with serving(Limits(stalled_write_seconds=1000)) as server, unread(server, n):
        await until(lambda: not server.app.service.active, 60)
        await server.settled()
        assert await server.total("dyno_requests_total", outcome="cancelled") == n


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_whole_answers_are_left_alone(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is generated, and however little may wait."""
    monkeypatch.setattr(stall, "LOOK_SECONDS", 0.02)
    model = fake_model(script=b"x" * 1000, moe=False, context=1 << 13, blocks=1 << 12)
    limits = Limits(unsent_events=0)
    async with running(model, limits=limits) as server, grpc.aio.insecure_channel(server.target) as channel:
        caller: Caller = RestCaller(server) if transport == "rest" else RpcCaller(channel)
        for n in (1, 2):
            told = await caller.whole(prompt="x", max_tokens=1000, logprobs=1, n=n)
            assert [len(one.tokens) for one in told] == [1000] * n


async def test_a_write_may_wait_until_something_piles_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "LOOK_SECONDS", 0.05)
    much = False
    with pytest.raises(stall.WriteStalled, match="behind"), stall.StallGuard(1000) as guard:
        guard.watch(lambda: much)
        await guard.write(asyncio.sleep(0.3))
        much = True
        await guard.write(asyncio.sleep(60))


async def test_much_may_pile_up_behind_writes_that_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "LOOK_SECONDS", 0.1)
    looks: list[bool] = []
    with stall.StallGuard(1000) as guard:
        guard.watch(lambda: looks.append(True) or True)  # type: ignore[func-returns-value]
        ends = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < ends:
            await guard.write(asyncio.sleep(0))
    assert looks == [], "it is not even asked"
