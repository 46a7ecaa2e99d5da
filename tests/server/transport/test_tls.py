"""TLS and mutual TLS on both transports, and certificates exchanged under running streams."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from cryptography import x509

from server.limits import Limits
from server.transport.tls import Identity, TlsError, TlsFiles
from tests.server.callers import Caller, RestCaller, RpcCaller
from tests.server.doors import Authority, Issued, channel_of, reread
from tests.server.kit import Harness, fake_model, running

LONG = {"prompt": "abc", "max_tokens": 150, "ignore_eos": True}
ENDS = (aiohttp.ClientError, grpc.aio.AioRpcError, ssl.SSLError, OSError)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextlib.asynccontextmanager
async def calling(transport: str, server: Harness, authority: Path, own: Issued | None = None) -> AsyncIterator[Caller]:
    """A caller with a connection of its own, that trusts `authority` and shows `own`."""
    if transport == "rest":
        context = ssl.create_default_context(cafile=str(authority))
        if own is not None:
            context.load_cert_chain(own.cert, own.key)
        connector = aiohttp.TCPConnector(ssl=context, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield RestCaller(replace(server, session=session))
    else:
        pair = (None, None) if own is None else (own.key.read_bytes(), own.cert.read_bytes())
        credentials = grpc.ssl_channel_credentials(authority.read_bytes(), *pair)  # noqa: ASYNC240
        async with channel_of(server, None, credentials) as channel:
            yield RpcCaller(channel)


async def served_name(server: Harness, transport: str, authority: Path) -> str:
    """The common name of the certificate that a new connection gets."""
    port = server.app.http_port if transport == "rest" else server.app.grpc_port
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2" if transport == "grpc" else "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    certificate = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return str(dict(pair for part in certificate["subject"] for pair in part)["commonName"])


async def becomes(server: Harness, transport: str, authority: Path, name: str) -> None:
    """Within seconds, new connections get the certificate of this name."""
    async with asyncio.timeout(5):
        while await served_name(server, transport, authority) != name:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def files(own: Issued, client_ca: Path | None = None) -> dict[str, Any]:
    more = {} if client_ca is None else {"tls_client_ca": client_ca}
    return {"tls_cert": own.cert, "tls_key": own.key, **more}


@pytest.mark.parametrize("transport", ["rest", "grpc"])
class TestBoth:
    async def test_calls_go_through(self, transport: str, authority: Authority) -> None:
        async with (
            running(fake_model(), **files(authority.issue("server"))) as server,
            calling(transport, server, authority.cert) as caller,
        ):
            whole, streamed = await caller.whole(**LONG), await caller.stream(**LONG)
            assert whole[0].tokens == streamed[0].tokens and len(whole[0].tokens) == 150

    async def test_who_does_not_trust_us_does_not_talk_to_us(self, transport: str, authority: Authority) -> None:
        stranger = Authority(authority.cert.parent, "stranger")
        async with running(fake_model(), **files(authority.issue("server"))) as server:
            async with calling(transport, server, stranger.cert) as caller:
                with pytest.raises((*ENDS, Exception)):
                    await asyncio.wait_for(caller.whole(prompt="a"), 5)
            assert await served_name(server, transport, authority.cert) == "server"

    async def test_a_new_certificate_is_for_new_connections(self, transport: str, authority: Authority) -> None:
        own = authority.issue("before", "server")
        async with (
            running(fake_model(sleep=0.015), **files(own)) as server,
            calling(transport, server, authority.cert) as caller,
        ):
            stream = caller.pieces(**LONG)
            await anext(stream)
            assert await served_name(server, transport, authority.cert) == "before"
            authority.issue("after", "server")
            await becomes(server, transport, authority.cert, "after")
            server.hurry()
            assert len([piece async for piece in stream]) > 1, "what was under way goes on to its end"

    async def test_files_that_do_not_fit_change_nothing(self, transport: str, authority: Authority) -> None:
        own, other = authority.issue("good", "server"), authority.issue("other")
        async with running(fake_model(), **files(own)) as server:
            shutil.copy(other.cert, own.cert)  # the key is still the old one's
            await reread(server)
            assert await served_name(server, transport, authority.cert) == "good"
            shutil.copy(other.key, own.key)
            await becomes(server, transport, authority.cert, "other")

    async def test_clients_without_a_certificate_stay_outside(self, transport: str, authority: Authority) -> None:
        clients = Authority(authority.cert.parent, "clients")
        settings = files(authority.issue("server"), clients.cert)
        async with running(fake_model(), **settings) as server:
            async with calling(transport, server, authority.cert, clients.issue("client")) as caller:
                assert await caller.whole(prompt="abc", max_tokens=1)
            for own in (None, authority.issue("impostor")):
                async with calling(transport, server, authority.cert, own) as caller:
                    with pytest.raises(Exception, match=r"(?i)ssl|cert|closed|reset|disconnect|unavailable|connect"):
                        await asyncio.wait_for(caller.whole(prompt="abc", max_tokens=1), 10)

    async def test_an_authority_that_is_exchanged_lets_nobody_in_any_more(
        self, transport: str, authority: Authority
    ) -> None:
        before, after = (Authority(authority.cert.parent, name) for name in ("clients-before", "clients-after"))
        trusted = authority.cert.parent / "trusted.pem"
        shutil.copy(before.cert, trusted)
        old, new = before.issue("old"), after.issue("new")
        async with running(fake_model(), **files(authority.issue("server"), trusted)) as server:
            async with calling(transport, server, authority.cert, old) as caller:
                assert await caller.whole(prompt="abc", max_tokens=1)
            shutil.copy(after.cert, trusted)
            await reread(server)
            async with calling(transport, server, authority.cert, new) as caller:
                assert await caller.whole(prompt="abc", max_tokens=1)
            async with calling(transport, server, authority.cert, old) as caller:
                with pytest.raises(Exception, match=r"(?i)ssl|cert|closed|reset|disconnect|unavailable|connect"):
                    await asyncio.wait_for(caller.whole(prompt="abc", max_tokens=1), 10)

    async def test_plain_text_is_turned_away_and_others_are_served(self, transport: str, authority: Authority) -> None:
        async with running(fake_model(), **files(authority.issue("server"))) as server:
            port = server.app.http_port if transport == "rest" else server.app.grpc_port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
            assert b"200" not in await asyncio.wait_for(reader.read(), 5)
            writer.close()
            async with calling(transport, server, authority.cert) as caller:
                assert await caller.whole(prompt="abc", max_tokens=1)

    async def test_half_a_handshake_is_cut_off(self, transport: str, authority: Authority) -> None:
        settings = files(authority.issue("server"))
        async with running(fake_model(), limits=Limits(head_seconds=0.2), **settings) as server:
            port = server.app.http_port if transport == "rest" else server.app.grpc_port
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)
            assert time.monotonic() - began < 3
            writer.close()


async def test_a_refusal_of_the_parser_reaches_its_client(authority: Authority) -> None:
    async with running(fake_model(), **files(authority.issue("server"))) as server:
        context = ssl.create_default_context(cafile=str(authority.cert))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.app.http_port, ssl=context, server_hostname="localhost"
        )
        writer.write(b"this is not HTTP\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"malformed_request" in answer
        writer.close()


def test_what_is_wrong_with_files_is_one_line(authority: Authority, tmp_path: Path) -> None:
    own, other = authority.issue("own"), authority.issue("other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for wrong, words in (
        (TlsFiles(own.cert, other.key), "cannot be used"),
        (TlsFiles(nonsense, own.key), "cannot be used"),
        (TlsFiles(own.cert, own.key, nonsense), "cannot be used"),
        (TlsFiles(own.cert, tmp_path / "missing.key"), "missing.key: No such file"),
    ):
        with pytest.raises(TlsError, match=words) as error:
            Identity(wrong)
        assert "\n" not in str(error.value) and "PRIVATE" not in str(error.value)


def test_old_versions_are_not_spoken(authority: Authority) -> None:
    own = authority.issue("own")
    assert Identity(TlsFiles(own.cert, own.key)).context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert x509.load_pem_x509_certificate(own.cert.read_bytes()).subject.rfc4514_string() == "CN=own"
