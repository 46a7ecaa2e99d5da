"""What no HTTP library would send: raw bytes on the REST port."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.limits import Limits
from server.transport.rest import wire
from tests.server.kit import Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = json.dumps({"model": "fake", "prompt": "abc", "max_tokens": 2}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@asynccontextmanager
async def connection(server: Harness) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.app.http_port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One response: status, headers, body."""
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, body


async def ask(server: Harness, raw: bytes) -> tuple[int, dict[str, str], str]:
    """What the server says to these bytes; the words of the error, if it is one."""
    async with connection(server) as (reader, writer):
        writer.write(raw)
        status, headers, body = await answer(reader)
    error = json.loads(body).get("error", {})
    assert "server" not in headers and "x-request-id" in headers
    assert status == 200 or error.keys() == {"message", "type", "param", "code"}
    return status, headers, error.get("code", "")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: localhost\r\nbad header: y\r\n\r\n",
        HEAD + b"content-length: abc\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
async def test_what_is_not_http_gets_an_error_in_the_usual_shape(raw: bytes, server: Harness) -> None:
    status, headers, code = await ask(server, raw)
    assert (status, headers["connection"]) == (400, "close")
    assert code == "malformed_request"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /livez HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(65)) + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nh: " + b"x" * (17 << 10) + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nh: " + b"x" * (1 << 20), 431),
    ],
)
async def test_a_head_that_is_too_large_is_refused(raw: bytes, status: int, server: Harness) -> None:
    assert (await ask(server, raw))[0] == status


async def test_a_body_that_is_announced_too_large_is_refused_unread(server: Harness) -> None:
    assert (await ask(server, HEAD + b"content-length: 10000000000\r\n\r\n"))[::2] == (413, "body_too_large")


async def test_a_chunked_body_is_read_up_to_the_limit(server: Harness) -> None:
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    assert (await ask(server, chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)))[0] == 200
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    assert (await ask(server, chunked + chunk * 17))[::2] == (413, "body_too_large")


async def test_a_body_of_very_many_chunks_is_refused(server: Harness) -> None:
    raw = HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 5000
    assert (await ask(server, raw))[::2] == (400, "too_many_chunks")
    await server.settled()


async def test_the_end_of_a_body_beside_the_next_request_counts_for_neither(server: Harness) -> None:
    def head(size: int) -> bytes:
        return HEAD + b"content-length: %d\r\n\r\n" % size

    long = BODY + b" " * 100_000
    async with connection(server) as (reader, writer):
        for part in (head(len(long)) + long[:-100], long[-100:] + head(len(BODY)) + BODY[:5], BODY[5:]):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 200]
    await server.settled()


async def test_what_is_written_is_sent_at_once(server: Harness) -> None:
    """Not only when the client has acknowledged what came before, which it puts off for 40 ms."""
    async with connection(server) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await answer(reader)
        accepted = [one.transport.get_extra_info("socket") for one in server.app._http._server.server_state.connections]
        assert accepted
        assert all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in accepted)


async def test_a_connection_serves_one_request_after_another(server: Harness) -> None:
    good = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    bad = HEAD + b"content-length: 2\r\n\r\n[]"
    async with connection(server) as (reader, writer):
        writer.write(good + bad + good)  # pipelined
        assert [(await answer(reader))[0] for _ in range(3)] == [200, 400, 200]
    await server.settled()


@pytest.mark.parametrize("path", [b"/livez", b"/readyz", b"/health", b"/ready", b"/metrics"])
async def test_heads_of_health_and_metrics_come_without_a_body(path: bytes, server: Harness) -> None:
    async with connection(server) as (reader, writer):
        writer.write(b"HEAD " + path + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"content-length: " in head
    assert body == b""


@pytest.mark.parametrize("stream", [True, False])
async def test_answers_to_http_1_0_have_no_chunks_and_end_with_the_connection(stream: bool, server: Harness) -> None:
    body = json.dumps({"model": "fake", "prompt": "abc", "max_tokens": 2, "stream": stream}).encode()
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"expect: 100-continue\r\nconnection: keep-alive\r\n"
    async with connection(server) as (reader, writer):
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        told, _, said = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    first, *lines = told.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert first.endswith(" 200 OK"), said
    assert headers["connection"] == "close"
    assert "transfer-encoding" not in headers
    if stream:
        events = said.decode().split("\n\n")
        assert all(event.startswith("data: ") for event in events[:-1])
        assert (events[-2:], "content-length" in headers) == (["data: [DONE]", ""], False)
    else:
        assert int(headers["content-length"]) == len(said)
        assert json.loads(said)["usage"]["completion_tokens"] == 2
    await server.settled()


async def test_after_a_refusal_that_did_not_wait_for_the_body_the_next_request_is_served(server: Harness) -> None:
    refused = (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n"
    )
    async with connection(server) as (reader, writer):
        writer.write(refused)
        assert (await answer(reader))[0] == 415
        writer.write(b"hello" + b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await answer(reader))[0] == 200


async def test_extensions_of_chunks_are_bounded(server: Harness) -> None:
    few = b"".join(b"1;ext=%d\r\n \r\n" % i for i in range(100)) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    raw = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    assert (await ask(server, raw + few))[0] == 200
    async with connection(server) as (reader, writer):
        writer.write(raw + b"1;")
        for _ in range(20):
            writer.write(b"x" * (1 << 16))
            await asyncio.sleep(0)
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["error"]["code"]) == (400, "too_many_chunks")


@pytest.mark.parametrize(
    "path", [b"/v1/%2e%2e/v1/models", b"/v1/models/../../etc/passwd", b"/v1/models/%00", b"/v1/models;x"]
)
async def test_odd_paths_reach_no_file_and_no_model(path: bytes, server: Harness) -> None:
    assert (await ask(server, b"GET " + path + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"))[0] == 404


async def test_slow_heads_and_bodies_are_cut_off() -> None:
    async with running(fake_model(), limits=Limits(head_seconds=0.2, body_seconds=0.2)) as server:
        status, headers, code = await ask(server, b"GET /livez HT")
        assert (status, headers["connection"], code) == (408, "close", "head_timeout")
        status, headers, code = await ask(server, HEAD + b"content-length: 50\r\n\r\n{")
        assert (status, headers["connection"], code) == (408, "close", "body_timeout")
        async with connection(server) as (reader, writer):
            for _ in range(2):  # a fresh request on an old connection has its full time
                writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert (await answer(reader))[0] == 200
                await asyncio.sleep(0.3)


async def test_a_body_that_never_comes_does_not_hold_the_connection(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LINGER_SECONDS", 0.2)
    for raw in (HEAD + b"content-length: 10000000000\r\n\r\n", b"GET /" + b"x" * 9000):
        async with connection(server) as (reader, writer):
            writer.write(raw)
            assert (await answer(reader))[0] in (413, 414)
            assert await rest_of(reader) == b""


async def test_more_connections_than_allowed_are_dropped() -> None:
    async with running(fake_model(), limits=Limits(connections=3)) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.app.http_port) for _ in range(3)]
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.app.http_port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        for _, other in [*held, (reader, writer)]:
            other.close()
        await asyncio.sleep(0.05)
        assert (await ask(server, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"))[0] == 200


async def test_a_reader_that_stops_reading_is_cut_off() -> None:
    """Its request is cancelled, and the connection does not end as if the answer were complete."""
    name = "m" * 4000  # stands in every event, and soon fills what the kernel takes
    models = fake_model(name, script=b"x" * 4000, moe=False, context=1 << 13, blocks=1 << 11)
    async with running(models, limits=Limits(stalled_write_seconds=0.3)) as server:
        body = json.dumps({"prompt": "x", "max_tokens": 4000, "stream": True}).encode()
        async with connection(server) as (reader, writer):
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(b"data: ")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await server.settled(30)
            open_now = server.app._http._server.server_state.connections
            assert len(open_now) == 1, "only the one that was used to look"
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert not (await rest_of(reader)).endswith(b"0\r\n\r\n")
        assert await server.total("dyno_requests_total", outcome="cancelled") == 1


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """The last bytes that come before the connection ends, however it ends."""
    last = b""
    try:
        while more := await asyncio.wait_for(reader.read(1 << 20), 5):
            last = more
    except ConnectionError:
        return b""
    return last
