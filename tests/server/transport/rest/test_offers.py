"""Requests that offer to go on in another protocol: HTTP/2, or a WebSocket."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.server.kit import Harness
from tests.server.transport.rest.test_wire import BODY, HEAD, answer, ask, connection, rest_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAA\r\n"
OFFERED = HEAD + OFFER + b"content-length: %d\r\n\r\n" % len(BODY)
LIVE = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def test_an_offer_of_another_protocol_is_passed_over(server: Harness) -> None:
    chunked = HEAD + OFFER + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    socket = LIVE.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    async with connection(server) as (reader, writer):
        writer.write((OFFERED + BODY) * 2 + socket + chunked + LIVE)
        for _ in range(5):
            assert (await answer(reader))[0] == 200
    await server.settled()


async def test_a_body_behind_an_offer_is_never_a_request(server: Harness) -> None:
    hidden = LIVE + BODY
    head = HEAD + OFFER + b"content-length: %d\r\n\r\n" % len(hidden)
    for whole in (True, False):
        async with connection(server) as (reader, writer):
            writer.write(head + hidden if whole else head)
            await asyncio.sleep(0.02)
            writer.write((b"" if whole else hidden) + LIVE)
            status, _, body = await answer(reader)
            assert (status, json.loads(body)["error"]["code"]) == (400, "malformed_json")
            assert (await answer(reader))[0] == 200
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.05)


async def test_an_offer_may_come_in_any_two_pieces(server: Harness) -> None:
    raw = OFFERED + BODY
    async with connection(server) as (reader, writer):
        for cut in range(1, len(raw)):
            writer.write(raw[:cut])
            await asyncio.sleep(0.001)
            writer.write(raw[cut:])
            assert (await answer(reader))[0] == 200
    await server.settled()


async def test_an_offer_keeps_the_rest_of_its_head(server: Harness) -> None:
    """What it says of the connection, of its length and of whether to go on."""
    async with connection(server) as (reader, writer):
        writer.write((OFFERED + BODY).replace(b"Upgrade, ", b"close, upgrade, "))
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b""
    async with connection(server) as (reader, writer):
        writer.write(OFFERED.replace(OFFER, OFFER + b"expect: 100-continue\r\nempty:\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await answer(reader))[0] == 200
    two_lengths = OFFERED.replace(OFFER, OFFER + b"content-length: 7\r\n")
    assert (await ask(server, two_lengths + BODY))[0] == 400


async def test_very_many_offers_in_one_piece_are_answered(server: Harness) -> None:
    offer = LIVE.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
    async with connection(server) as (reader, writer):
        writer.write(offer * 2000)
        for _ in range(2000):
            assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("target", [b"/livez", b"example.org:443"])
async def test_connect_is_refused(target: bytes, server: Harness) -> None:
    async with connection(server) as (reader, writer):
        writer.write(b"CONNECT " + target + b" HTTP/1.1\r\nhost: localhost\r\n\r\n" + LIVE)
        status, headers, body = await answer(reader)
        assert (status, headers["connection"]) == (405, "close")
        assert json.loads(body)["error"]["code"] == "method_not_allowed"
        assert await rest_of(reader) == b""
