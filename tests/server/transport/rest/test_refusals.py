"""What the HTTP protocol itself refuses: once, in order, in the clear and over TLS, and without a word in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.limits import Limits
from server.transport.rest import wire
from tests.server.doors import Authority, until
from tests.server.kit import Harness, fake_model, running

BODY = json.dumps({"model": "fake", "prompt": "abc", "max_tokens": 20, "ignore_eos": True}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GOOD = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

REFUSED = {
    "a long head": (b"GET / HTTP/1.1\r\nh: " + b"x" * 30_000, [b"431"]),
    "a long head with its end": (b"GET / HTTP/1.1\r\nh: " + b"x" * 30_000 + b"\r\n\r\n", [b"431"]),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40_000, [b"400"]),
    "garbage": (b"\xff\x00garbage\r\n\r\n" * 3000, [b"400"]),
    "a long line": (b"GET /" + b"x" * 40_000, [b"414"]),
    "garbage behind a request": (GOOD + b"\xff\xff garbage\r\n\r\n", [b"200", b"400"]),
    "garbage behind two": (GOOD + GOOD + b"\xff\xff garbage\r\n\r\n", [b"200", b"200", b"400"]),
    "a broken body": (CHUNKED + b"xyz\r\n", [b"400"]),
    "a broken body behind a request": (GOOD + CHUNKED + b"xyz\r\n", [b"200", b"400"]),
}


@pytest.fixture(params=["clear", "tls"])
def authority(request: pytest.FixtureRequest, tmp_path: Path) -> Authority | None:
    return Authority(tmp_path) if request.param == "tls" else None


@asynccontextmanager
async def served(authority: Authority | None) -> AsyncIterator[Harness]:
    files = {}
    if authority is not None:
        own = authority.issue("server")
        files = {"tls_cert": own.cert, "tls_key": own.key}
    async with running(fake_model(sleep=0.005), limits=Limits(head_seconds=5), **files) as server:
        yield server


async def statuses(server: Harness, authority: Authority | None, raw: bytes, later: bytes = b"") -> list[bytes]:
    """Of everything that is answered until the connection ends, however it ends. `later`: sent after an answer."""
    context = None if authority is None else ssl.create_default_context(cafile=str(authority.cert))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.app.http_port, ssl=context, server_hostname="localhost" if context else None
    )
    writer.write(raw)
    told = b""
    try:
        async with asyncio.timeout(10):
            while more := await reader.read(1 << 20):
                told += more
                writer.write(later)
                later = b""
    except ConnectionError:
        pass
    writer.close()
    return re.findall(rb"HTTP/1\.1 (\d+) ", told)


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused_is_refused_once(
    what: str, authority: Authority | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "LINGER_SECONDS", 0.1)
    raw, wanted = REFUSED[what]
    async with served(authority) as server:
        assert await statuses(server, authority, raw) == wanted
        await until(server._idle)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_body_that_was_refused_and_then_breaks_is_refused_once(
    authority: Authority | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "LINGER_SECONDS", 0.3)
    raw = CHUNKED + (b"20000\r\n" + b" " * 0x20000 + b"\r\n") * 9
    async with served(authority) as server:
        assert await statuses(server, authority, raw, later=b"xyz\r\n") == [b"413"]
        await until(server._idle)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
