"""A server that is leaving sends its clients elsewhere, and nobody's answer is cut short by that."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import aiohttp
import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.server.kit import fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = fake_model(sleep=0.01)
REQUEST = pb.GenerateRequest(prompt="abc", sampling=pb.SamplingParameters(max_tokens=40, ignore_eos=True))
BODY = {"prompt": "abc", "max_tokens": 40, "ignore_eos": True, "stream": True}


async def test_channels_go_to_another_server_and_streams_end_whole() -> None:
    async with contextlib.AsyncExitStack() as stack:
        old, new = [await stack.enter_async_context(running(SLOW)) for _ in range(2)]
        async with grpc.aio.insecure_channel(f"ipv4:{old.target},{new.target}") as channel:
            stub = InferenceServiceStub(channel)
            stream = aiter(stub.StreamGenerate(pb.StreamGenerateRequest(request=REQUEST)))
            await anext(stream)
            assert old.app.service.active
            drain = asyncio.create_task(old.app.drain())
            await asyncio.sleep(0.1)
            calls = [asyncio.create_task(_answer(stub)) for _ in range(5)]
            await asyncio.sleep(0.05)
            assert len(new.app.service.active) == 5 and len(old.app.service.active) == 1
            assert [message async for message in stream][-1].finished.usage.completion_tokens == 40
            await asyncio.gather(*calls, drain)


async def test_who_watches_the_health_hears_of_a_drain_and_does_not_hold_it_up() -> None:
    async with running(SLOW) as server, grpc.aio.insecure_channel(server.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        async with asyncio.timeout(2):
            await server.leave()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_every_answer_of_a_server_that_leaves_ends_its_connection() -> None:
    async with running(SLOW) as server:
        stream = asyncio.create_task(_streamed(server.session, server.url))
        async with server.session.get(f"{server.url}/livez") as response:
            assert "connection" not in response.headers
        while not server.app.service.active:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        drain = asyncio.create_task(server.app.drain())
        await asyncio.sleep(0)
        for path, status in (("livez", 200), ("readyz", 503), ("metrics", 200), ("v1/models", 503), ("nothing", 404)):
            async with server.session.get(f"{server.url}/{path}") as response:
                assert (response.status, response.headers["connection"]) == (status, "close"), path
        assert (await stream).endswith(b"data: [DONE]\n\n")
        await drain


async def test_an_answer_before_the_body_has_come_is_read_by_a_server_that_leaves() -> None:
    """A connection that closed beside bytes that nobody has read would take the answer with it."""
    async with running(SLOW) as server:
        host, port = server.url.removeprefix("http://").split(":")
        stream = asyncio.create_task(_streamed(server.session, server.url))
        while not server.app.service.active:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        drain = asyncio.create_task(server.app.drain())
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n" + b" " * 300_000)
        await writer.drain()
        assert b"404" in await reader.readline()
        assert b"connection: close" not in (await reader.readuntil(b"\r\n\r\n")).lower()
        writer.write(b" " * 700_000)
        await writer.drain()
        writer.close()
        await asyncio.gather(stream, drain)


async def test_what_a_drain_cuts_off_has_failed() -> None:
    """Its caller did not leave: it was told to come again."""
    async with running(SLOW, drain_seconds=0.1) as server:
        stream = asyncio.create_task(_streamed(server.session, server.url, max_tokens=200))
        while not server.app.service.active:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await server.app.drain()
        assert b'"draining"' in await stream
        await server.settled()
        assert await server.total("dyno_requests_total", outcome="error") == 1


async def test_what_a_drain_cuts_off_is_logged_and_scraped_before_the_server_ends() -> None:
    async with running(SLOW, drain_seconds=0.1) as server:
        await server.series()
        stream = asyncio.create_task(_streamed(server.session, server.url, max_tokens=200, n=4))
        while not server.app.service.active:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with structlog.testing.capture_logs() as logs:
            leaving = asyncio.create_task(server.leave())
            await stream
            await asyncio.sleep(0.3)
            assert not leaving.done()
            assert await server.total("dyno_requests_total", outcome="error") == 4
            async with asyncio.timeout(2):
                await leaving
        assert [entry["cut_off"] for entry in logs if entry["event"] == "drained"] == [4]


async def test_a_drain_in_a_hurry_or_that_nobody_scraped_waits_for_no_scrape() -> None:
    hurry = asyncio.Event()
    for scraped in (False, True):
        async with running(SLOW, drain_seconds=0.1) as server:
            if scraped:
                await server.series()
                hurry.set()
            stream = asyncio.create_task(_streamed(server.session, server.url, max_tokens=200))
            while not server.app.service.active:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            async with asyncio.timeout(2):
                await server.app.drain(hurry)
            await stream


async def _answer(stub: InferenceServiceStub) -> pb.GenerateResponse:
    return await stub.Generate(REQUEST)


async def _streamed(session: aiohttp.ClientSession, url: str, **more: int) -> bytes:
    async with session.post(f"{url}/v1/completions", json=BODY | more) as response:
        return await response.read()


async def test_nothing_holds_a_server_that_has_ended() -> None:
    """Or its listener ends with the interpreter, when gRPC cannot do that any more and says so on stderr."""
    async with running(fake_model()) as server:
        ended = weakref.ref(server.app)
    del server
    await asyncio.sleep(0)
    gc.collect()
    assert ended() is None
