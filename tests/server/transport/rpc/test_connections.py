"""Connections of gRPC: pings that come too fast, connections that grow old, and what every error says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status

from dyno.admin.v1 import admin_pb2
from dyno.admin.v1.admin_pb2_grpc import AdminServiceStub
from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.limits import Limits
from server.transport.auth.table import ADMIN_SERVICE, INFERENCE_SERVICE
from server.transport.rpc import listener
from tests.server.doors import until
from tests.server.kit import Harness, fake_model, running

SETTINGS, PING, GOAWAY = 4, 6, 7
CALM = 11  # ENHANCE_YOUR_CALM
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
KINDS: tuple[type[Message], ...] = (
    details.ErrorInfo,
    details.BadRequest,
    details.RetryInfo,
    details.QuotaFailure,
    details.ResourceInfo,
    details.RequestInfo,
)


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


class Raw:
    """HTTP/2 by hand, on the control stream only."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, kind: int, payload: bytes = b"", times: int = 1) -> None:
        self._writer.write(frame(kind, payload) * times)

    async def until_goaway(self) -> int:
        """The error code of the first GOAWAY."""
        while True:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == GOAWAY:
                return int.from_bytes(payload[4:8], "big")


@asynccontextmanager
async def connected(server: Harness) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.app.grpc_port)
    writer.write(PREFACE + frame(SETTINGS))
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


async def test_who_pings_too_fast_is_sent_away_and_others_are_not() -> None:
    async with running(fake_model()) as server, grpc.aio.insecure_channel(server.target) as channel:
        async with connected(server) as raw:
            raw.send(PING, bytes(8), times=10)  # in one write: a later one could find the connection closed
            assert await asyncio.wait_for(raw.until_goaway(), 5) == CALM
        assert await InferenceServiceStub(channel).Generate(pb.GenerateRequest(prompt="abc"))


async def test_who_pings_as_often_as_allowed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a call. The library's own limit is two hours, and five minutes with one: most clients ping more often."""
    monkeypatch.setattr(listener, "PING_MS", 20)
    async with running(fake_model()) as server, connected(server) as raw:
        for _ in range(8):
            raw.send(PING, bytes(8))
            await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.until_goaway(), 0.2)


def test_the_library_knows_every_option() -> None:
    """It ignores those that it does not know."""
    known = Path(grpc._cython.cygrpc.__file__).read_bytes()
    assert [name for name, _ in listener.channel_options(Limits(), 1.0) if name.encode() + b"\0" not in known] == []


async def test_an_old_connection_is_renewed_and_its_streams_end_well() -> None:
    sampling = pb.SamplingParameters(max_tokens=80, ignore_eos=True)
    request = pb.StreamGenerateRequest(request=pb.GenerateRequest(prompt="abc", sampling=sampling))
    async with (
        running(fake_model(sleep=0.01), grpc_connection_seconds=0.3) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stub = InferenceServiceStub(channel)
        async with connected(server) as raw:
            assert await asyncio.wait_for(raw.until_goaway(), 5) == 0
        messages = [message async for message in stub.StreamGenerate(request)]
        assert messages[-1].finished.usage.completion_tokens == 80, "it lasted longer than its connection may"
        assert await stub.Generate(pb.GenerateRequest(prompt="abc")), "over a new one"


async def test_a_connection_does_not_grow_old_unless_told_to() -> None:
    async with running(fake_model()) as server, connected(server) as raw:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.until_goaway(), 1)


async def test_more_connections_than_allowed_are_dropped() -> None:
    async with running(fake_model(), limits=Limits(connections=3)) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.app.grpc_port) for _ in range(3)]
        for reader, writer in held:
            writer.write(PREFACE + frame(SETTINGS))  # and nothing more
            assert (await asyncio.wait_for(reader.readexactly(9), 5))[3] == SETTINGS
        reader, writer = await asyncio.open_connection("127.0.0.1", server.app.grpc_port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b"", "closed without a word"
        for _, other in [*held, (reader, writer)]:
            other.close()
        async with grpc.aio.insecure_channel(server.target) as channel:
            assert await InferenceServiceStub(channel).Generate(pb.GenerateRequest(prompt="abc"), wait_for_ready=True)


async def test_more_streams_than_a_connection_has_wait_their_turn() -> None:
    sampling = pb.SamplingParameters(max_tokens=5, ignore_eos=True)
    request = pb.StreamGenerateRequest(request=pb.GenerateRequest(prompt="abc", sampling=sampling))
    async with running(fake_model(sleep=0.002)) as server, grpc.aio.insecure_channel(server.target) as channel:
        stub = InferenceServiceStub(channel)
        streams = await asyncio.gather(*(_read(stub.StreamGenerate(request)) for _ in range(130)))
        assert [stream[-1].finished.usage.completion_tokens for stream in streams] == [5] * 130


async def test_a_burst_waits_and_none_of_it_is_refused_by_chance() -> None:
    """The library would refuse some of those beyond a thousand that nobody has looked at yet, at random."""
    async with running(fake_model()) as server, AsyncExitStack() as open_channels:
        options = [("grpc.use_local_subchannel_pool", 1)]  # each a connection of its own
        channels = [
            await open_channels.enter_async_context(grpc.aio.insecure_channel(server.target, options=options))
            for _ in range(40)
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        calls = [InferenceServiceStub(channel).ListModels(pb.ListModelsRequest()) for channel in channels * 90]
        time.sleep(1)  # noqa: ASYNC251  # nobody looks
        assert len(await asyncio.gather(*calls)) == 3600


# ---------------------------------------------------------------------------------------------- details of errors


async def said_of(call: Any) -> dict[str, Any]:
    """The details of a call's error by the names of their kinds; its metadata is checked here."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    status = rpc_status.from_call(error.value)
    assert status is not None and status.message == error.value.details()
    found = {}
    for detail in status.details:
        (kind,) = (kind for kind in KINDS if detail.Is(kind.DESCRIPTOR))
        found[kind.DESCRIPTOR.name] = message = kind()
        detail.Unpack(message)
    assert found["ErrorInfo"].domain == "dyno"
    trailers = dict(error.value.trailing_metadata())
    assert found["RequestInfo"].request_id == trailers["x-request-id"] and not dict(await call.initial_metadata())
    wait = found["RetryInfo"].retry_delay.ToMilliseconds() if "RetryInfo" in found else None
    assert trailers.get("grpc-retry-pushback-ms") == (None if wait is None else str(wait))
    return found


@pytest.mark.parametrize("method", [f"{INFERENCE_SERVICE}/Generate", f"{ADMIN_SERVICE}/CancelRequest"])
async def test_a_message_that_cannot_be_read_has_an_id_too(method: str) -> None:
    async with running(fake_model()) as server, grpc.aio.insecure_channel(server.target) as channel:
        said = await said_of(channel.unary_unary(method)(b"\xff\xff\xff"))
        assert said["ErrorInfo"].reason == "MALFORMED_MESSAGE"


async def test_errors_tell_what_they_are_about() -> None:
    async with (
        running(fake_model(sleep=0.01, rows=1), limits=Limits(queue=1)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stub, admin = InferenceServiceStub(channel), AdminServiceStub(channel)
        engine = server.models["fake"].engine
        sampling = pb.SamplingParameters(max_tokens=200, ignore_eos=True)
        long = pb.GenerateRequest(prompt="abc", sampling=sampling)

        said = await said_of(stub.Generate(pb.GenerateRequest(model="a\nb", prompt="abc")))
        assert (said["ResourceInfo"].resource_type, said["ResourceInfo"].resource_name) == ("model", "a\\nb")
        said = await said_of(admin.CancelRequest(admin_pb2.CancelRequestRequest(id="nobody")))
        assert (said["ResourceInfo"].resource_type, said["ResourceInfo"].resource_name) == ("request", "nobody")
        said = await said_of(admin.LoadModel(admin_pb2.LoadModelRequest(model="x", cache_tokens=0)))
        assert said["BadRequest"].field_violations[0].field == "cache_tokens"

        held = []
        for count in (1, 2):  # one at a time: the second must find the first in its row, not in the queue
            held.append(asyncio.create_task(_done(stub.Generate(long))))
            await until(lambda count=count: engine.num_running + engine.num_waiting == count and engine.num_running)
        said = await said_of(stub.Generate(long))
        assert said["ErrorInfo"].reason == "QUEUE_FULL"
        assert "queue of 1" in said["QuotaFailure"].violations[0].description
        assert said["RetryInfo"].retry_delay.seconds == 1
        said = await said_of(stub.Tokenize(pb.TokenizeRequest(model="fake", text="a" * (600 << 10))))
        assert said["BadRequest"].field_violations[0].field == "text"

        server.app.service.drain()
        said = await said_of(stub.ListModels(pb.ListModelsRequest()))
        assert said["ErrorInfo"].reason == "DRAINING" and said["RetryInfo"].retry_delay.seconds == 1
        server.hurry()
        await asyncio.gather(*held)


async def _done(call: Any) -> Any:
    return await call


async def _read(stream: Any) -> list[Any]:
    return [message async for message in stream]
