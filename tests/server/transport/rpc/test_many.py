"""GenerateMany: many requests over one call, each as it would be with a call of its own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from client.many import MOST_ACTIONS
from dyno.inference.v1 import inference_pb2 as pb
from server.limits import Limits
from server.transport.auth.keys import read_keys
from server.transport.rpc import many
from server.transport.rpc.listener import SERVICE
from tests.server.callers import Refused, RpcCaller, end_refused, rpc_refused, rpc_request
from tests.server.doors import channel_of, until, write_keys
from tests.server.kit import Harness, fake_model, running
from tests.server.transport.rpc.manycall import Heard, session

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = {"model": "slow", "prompt": "abc", "max_tokens": 200, "ignore_eos": True}


async def test_each_request_ends_once_and_says_what_it_says_alone(channel: grpc.aio.Channel, server: Harness) -> None:
    """Whatever its neighbours do: some are refused, some are cancelled at some moment."""
    chance, alone = random.Random(5), RpcCaller(channel)
    wishes: dict[int, dict[str, Any]] = {
        tag: {"model": chance.choice(["fake", "slow", "story"]), "prompt": f"p{tag}", "n": chance.randint(1, 3)}
        | {"max_tokens": chance.randint(1, 20), "top_p": chance.choice([1, 1, 1, 7])}
        for tag in [chance.getrandbits(64) for _ in range(40)]
    }
    cancelled = set(chance.sample([*wishes], 10))
    async with session(channel) as call:
        for tag, wish in wishes.items():
            await call.start(tag, **wish)
            if chance.random() < 0.5:
                await call.read()
            for other in [other for other in cancelled if other in call.heard and chance.random() < 0.1]:
                await call.cancel(other)
        heard = await call.rest()
    for tag, wish in wishes.items():
        if wish["top_p"] > 1:
            assert heard[tag].kind == "invalid" and heard[tag].tokens == 0
        elif tag in cancelled and heard[tag].kind == "cancelled":
            assert heard[tag].finished < wish["n"]
        else:
            told = await alone.stream(**wish)
            assert heard[tag].kind == "whole" and heard[tag].finished == wish["n"]
            assert [heard[tag].text[index] for index in range(wish["n"])] == [one.text for one in told]
    await server.settled()


async def test_what_one_step_gave_comes_as_one_message(channel: grpc.aio.Channel) -> None:
    async with session(channel) as call:
        for tag in range(8):
            await call.start(tag, **LONG | {"max_tokens": 40})
        await call.rest()
    assert sum(heard.tokens for heard in call.heard.values()) == 8 * 40
    assert call.messages < call.events / 4


async def test_a_cancelled_request_ends_and_leaves_its_tag(channel: grpc.aio.Channel, server: Harness) -> None:
    before = await server.total("dyno_requests_total", outcome="cancelled")
    async with session(channel) as call:
        await call.start(1, **LONG)
        await call.start(2, **LONG | {"max_tokens": 60})
        while not call.heard[1].tokens:
            assert await call.read()
        await call.cancel(1)
        await call.until_ended(1)
        assert call.heard[1].kind == "cancelled" and call.heard[1].finished == 0
        await call.cancel(1)  # it has ended
        await call.cancel(77)  # it never was
        await call.start(1, model="fake", prompt="x", max_tokens=3)
        heard = await call.rest()
    assert (heard[1].kind, heard[1].tokens) == ("whole", 3)
    assert (heard[2].kind, heard[2].tokens) == ("whole", 60)
    await server.settled()
    assert await server.total("dyno_requests_total", outcome="cancelled") == before + 1


async def test_a_request_that_is_cancelled_at_once_ends_too(channel: grpc.aio.Channel, server: Harness) -> None:
    """Both in one message: it is cancelled before anything of it has run, and counted all the same."""
    start, cancel = pb.GenerateStart(request=rpc_request(LONG)), pb.GenerateCancel()
    received = await server.total("dyno_requests_received_total", model="slow")
    cancelled = await server.total("dyno_requests_total", model="slow", outcome="cancelled")
    async with session(channel) as call:
        call.heard = {tag: Heard() for tag in range(20)}
        for tag in call.heard:
            await call.do(pb.GenerateAction(tag=tag, start=start), pb.GenerateAction(tag=tag, cancel=cancel))
        heard = await call.rest()
    assert {one.kind for one in heard.values()} == {"cancelled"}
    await server.settled()
    assert await server.total("dyno_requests_received_total", model="slow") == received + 20
    assert await server.total("dyno_requests_total", model="slow", outcome="cancelled") == cancelled + 20


async def test_a_refusal_is_that_of_a_call_of_its_own(channel: grpc.aio.Channel) -> None:
    for wish in ({"model": "nobody"}, {"model": "fake", "top_p": 7}, {"model": "fake", "max_tokens": 10**6}):
        whole = {"prompt": "abc", **wish}
        with pytest.raises(Refused) as own:
            await RpcCaller(channel).stream(**whole)
        async with session(channel) as call:
            await call.start(3, **whole)
            end = (await call.rest())[3].end
        assert end is not None
        refused = end_refused(end, begun=False)
        assert vars(refused) == vars(own.value)
        info = error_details_pb2.RequestInfo()
        assert any(detail.Unpack(info) and info.request_id for detail in end.details)


async def test_a_tag_in_flight_ends_the_call(channel: grpc.aio.Channel, server: Harness) -> None:
    async with session(channel) as call:
        await call.start(5, **LONG)
        await call.start(5, **LONG)
        refused = await call.refusal()
    assert (refused.kind, refused.code, refused.param) == ("invalid", "invalid_value", "tag")
    assert "tag 5" in refused.message
    await server.settled()


async def test_a_call_has_no_more_than_so_many_requests() -> None:
    """However they come: one that is cancelled counts until it has ended."""
    limits, start = Limits(requests_per_call=3), pb.GenerateStart(request=rpc_request({**LONG, "model": "fake"}))
    async with running(fake_model(sleep=0.02), limits=limits) as server:
        async with grpc.aio.insecure_channel(server.target) as channel, session(channel) as call:
            for tag in range(3):
                await call.start(tag, prompt="x", max_tokens=2)
            await call.until_ended(0, 1, 2)
            call.heard |= {tag: Heard() for tag in range(3, 7)}
            await call.do(*(pb.GenerateAction(tag=tag, start=start) for tag in range(3, 6)))
            await call.do(pb.GenerateAction(tag=3, cancel=pb.GenerateCancel()), pb.GenerateAction(tag=6, start=start))
            refused = await call.refusal()
        assert (refused.kind, refused.param) == ("invalid", "start") and "at most 3" in refused.message
        await server.settled()


async def test_a_message_has_no_more_than_so_many_actions(channel: grpc.aio.Channel, server: Harness) -> None:
    """Small as they are: nobody else has a turn before the last of them."""
    most, cancel = Limits().actions_per_message, pb.GenerateAction(tag=9, cancel=pb.GenerateCancel())
    async with session(channel) as call:
        await call.start(5, **LONG)
        await call.do(*[cancel] * most)
        while not call.heard[5].tokens:
            assert await call.read()
        await call.do(*[cancel] * (most + 1))
        refused = await call.refusal()
    assert (refused.kind, refused.code, refused.param) == ("invalid", "invalid_value", "actions")
    assert f"at most {most}" in refused.message
    assert most >= MOST_ACTIONS, "our own client keeps to it"
    await server.settled()


async def test_a_message_that_does_nothing_ends_the_call(channel: grpc.aio.Channel, server: Harness) -> None:
    async with session(channel) as call:
        await call.start(5, **LONG)
        await call.do(pb.GenerateAction(tag=6))
        refused = await call.refusal()
    assert (refused.kind, refused.code) == ("invalid", "missing_value") and "start and cancel" in refused.message
    await server.settled()


async def test_a_message_that_is_none_ends_the_call(channel: grpc.aio.Channel, server: Harness) -> None:
    raw = channel.stream_stream(f"/{SERVICE}/GenerateMany", request_serializer=bytes, response_deserializer=bytes)
    call = raw()
    action = pb.GenerateAction(tag=1, start=pb.GenerateStart(request=rpc_request(LONG)))
    await call.write(pb.GenerateManyRequest(actions=[action]).SerializeToString())
    assert await call.read()
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as said:
        while await call.read() is not grpc.aio.EOF:
            pass
    assert rpc_refused(said.value, begun=True).code == "malformed_message"
    await server.settled()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
async def test_a_timeout_is_more_than_nothing(channel: grpc.aio.Channel, seconds: float) -> None:
    async with session(channel) as call:
        await call.start(1, **LONG, seconds=seconds)
        await call.start(2, model="fake", prompt="x", max_tokens=2)
        heard = await call.rest()
    end = heard[1].end
    assert end is not None
    refused = end_refused(end, begun=False)
    assert (refused.kind, refused.param) == ("invalid", "timeout_seconds") and f"{seconds:g}" in refused.message
    assert heard[2].kind == "whole"


async def test_every_request_has_a_time_of_its_own(channel: grpc.aio.Channel, server: Harness) -> None:
    async with session(channel) as call:
        await call.start(1, **LONG, seconds=0.2)
        await call.start(2, **LONG | {"max_tokens": 60, "seconds": float("inf")})
        heard = await call.rest()
    assert (heard[1].kind, heard[2].kind, heard[2].tokens) == ("deadline", "whole", 60)
    await server.settled()


@pytest.mark.parametrize(("options", "outcome"), [({}, "cancelled"), ({"timeout": 1.8}, "deadline")])
async def test_a_call_that_is_left_leaves_nothing(
    channel: grpc.aio.Channel, server: Harness, options: dict[str, float], outcome: str
) -> None:
    """Whether its caller goes or its time is over."""
    before = await server.total("dyno_requests_total", outcome=outcome)
    async with session(channel, **options) as call:
        for tag in range(12):  # more than have a place
            await call.start(tag, **LONG)
        while not all(call.heard[tag].tokens for tag in range(8)):
            assert await call.read()
        if options:
            assert (await call.refusal()).kind == "deadline"
    await server.settled()
    assert await server.total("dyno_requests_total", outcome=outcome) == before + 12


async def test_a_call_may_say_nothing(channel: grpc.aio.Channel) -> None:
    async with session(channel) as call:
        assert await call.rest() == {}


async def test_requests_and_bytes_are_counted(channel: grpc.aio.Channel, server: Harness) -> None:
    async def counts() -> list[float]:
        codes = [{"method": many.METHOD, "code": "OK"}, {"method": many.METHOD, "code": "INVALID_ARGUMENT"}]
        ended = [await server.total("dyno_transport_requests_total", **each) for each in codes]
        return [*ended, await server.total("dyno_transport_requests_total", method="GenerateMany", code="OK")]

    async def moved() -> list[float]:
        ways = ("received", "sent")
        return [await server.total("dyno_transport_bytes_total", transport="grpc", direction=way) for way in ways]

    before, bytes_before = await counts(), await moved()
    async with session(channel) as call:
        for tag in range(3):
            await call.start(tag, model="fake", prompt="x" * 100, max_tokens=2, top_p=7 if tag == 2 else 1)
        await call.until_ended(0, 1, 2)
        assert await server.total("dyno_transport_open_calls", transport="grpc") == 1, "the call itself"
        await call.rest()
    await server.settled()
    assert [after - was for after, was in zip(await counts(), before, strict=True)] == [2, 1, 1]
    received, sent = [after - was for after, was in zip(await moved(), bytes_before, strict=True)]
    assert 300 < received < 600 and sent > 100


async def test_a_request_is_known_by_the_names_that_its_caller_gave_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(fake_model(), request_log=str(log)) as server:
        async with grpc.aio.insecure_channel(server.target) as channel, session(channel) as call:
            await call.start(1, prompt="x", max_tokens=2)
            names = {"request_id": "mine-2", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
            await call.start(2, **names, prompt="x", max_tokens=2, user="team-7")
            heard = await call.rest()
        await server.settled()
    lines = {line["id"]: line for line in map(json.loads, log.read_text().splitlines())}
    (first,), (second,) = heard[1].ids, heard[2].ids
    assert (lines[first]["given_id"], lines[second]["given_id"]) == (None, "mine-2")
    assert (lines[first]["trace_id"], lines[second]["trace_id"]) == (None, "a" * 32)
    assert (lines[first]["user"], lines[second]["user"]) == (None, "team-7")


async def test_a_draining_server_ends_an_idle_call_and_lets_the_others_finish() -> None:
    async with (
        running(fake_model(sleep=0.02)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
        session(channel) as idle,
        session(channel) as busy,
    ):
        await idle.start(1, prompt="x", max_tokens=1)
        await idle.until_ended(1)
        await busy.start(1, prompt="x", max_tokens=200, ignore_eos=True)
        await busy.read()
        server.app.service.drain()
        refused = await idle.refusal()
        assert (refused.kind, refused.code) == ("unavailable", "draining")
        await busy.start(2, prompt="x", max_tokens=30)
        await busy.until_ended(2)
        assert busy.heard[2].kind == "unavailable" and busy.heard[1].end is None
        await busy.cancel(1)
        await busy.until_ended(1)
        assert (await busy.refusal()).code == "draining"


async def test_requests_of_a_call_take_the_places_of_its_key(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", "alice", max_concurrent=2)
    async with running(fake_model(sleep=0.02), api_keys_file=keys) as server, channel_of(server, "alice") as channel:
        async with session(channel) as call:
            for tag in range(3):
                await call.start(tag, prompt="x", max_tokens=30)
            heard = await call.rest()
        assert [heard[tag].kind for tag in range(3)] == ["whole", "whole", "exhausted"]
        assert not server.app.service.active


async def test_a_key_that_is_taken_back_begins_nothing_more(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", "alice", "bob")
    async with running(fake_model(sleep=0.02), api_keys_file=keys) as server, channel_of(server, "alice") as channel:
        async with session(channel) as call:
            await call.start(1, prompt="x", max_tokens=30)
            await call.read()
            server.app.credentials.authoriser.replace(read_keys(write_keys(tmp_path / "fewer.toml", "bob")))
            await call.start(2, prompt="x", max_tokens=30)
            heard = await call.rest()
        assert (heard[1].kind, heard[2].kind) == ("whole", "unauthenticated"), "what is under way goes on"


async def test_an_old_call_takes_no_more_and_finishes_what_it_has() -> None:
    limits = Limits(call_seconds=0.3)
    async with (
        running(fake_model(sleep=0.02), limits=limits) as server,
        grpc.aio.insecure_channel(server.target) as channel,
        session(channel) as call,
    ):
        await call.start(1, prompt="x", max_tokens=200, ignore_eos=True)
        while call.heard[1].tokens < 20:
            assert await call.read()
        await call.start(2, prompt="x", max_tokens=2)
        await call.until_ended(2)
        seen = call.heard[1].tokens
        while call.heard[1].tokens < seen + 5:
            assert await call.read(), "what it has goes on"
        await call.cancel(1)
        await call.until_ended(1)
        end = call.heard[2].end
        assert end is not None and end_refused(end, begun=False).code == "call_over"
        assert (await call.refusal()).code == "call_over"


async def test_a_message_that_would_be_too_large_is_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "MOST_BYTES", 200)
    model = fake_model(script=b"x" * 60, moe=False)
    async with running(model) as server, grpc.aio.insecure_channel(server.target) as channel, session(channel) as call:
        for tag in range(8):
            await call.start(tag, prompt="x", max_tokens=60)
        heard = await call.rest()
    assert all((one.kind, one.text[0]) == ("whole", "x" * 60) for one in heard.values())
    assert all(events == 1 or size <= 200 for events, size in call.sizes)


async def test_an_engine_that_dies_ends_every_request() -> None:
    async with running(fake_model(nan=lambda row: len(row.request.outputs) >= 5)) as server:
        async with grpc.aio.insecure_channel(server.target) as channel, session(channel) as call:
            for tag in range(4):
                await call.start(tag, prompt="x", max_tokens=30)
            heard = await call.rest()
        assert {one.kind for one in heard.values()} == {"internal"} and all(one.tokens for one in heard.values())
        await until(lambda: not server.app.service.active)
