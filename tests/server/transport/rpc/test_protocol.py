"""What is gRPC's own: statuses with details, health, reflection, metadata, messages that are none."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import orjson
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.limits import Limits
from server.transport.listening import AddressInUse
from server.transport.rpc import answering
from server.transport.rpc.listener import SERVICE
from tests.server.kit import CONTEXT, VOCAB, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GOOD = pb.GenerateRequest(model="fake", prompt="abc", sampling=pb.SamplingParameters(max_tokens=2))


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def raw(channel: grpc.aio.Channel, method: str = "Generate") -> Any:
    """A method that takes bytes as they are."""
    return channel.unary_unary(f"/{SERVICE}/{method}", request_serializer=bytes, response_deserializer=bytes)


async def test_an_invalid_value_comes_with_its_field_and_a_stable_reason(channel: grpc.aio.Channel) -> None:
    request = pb.GenerateRequest(model="fake", prompt="abc", sampling=pb.SamplingParameters(top_p=7))
    error = await failure(InferenceServiceStub(channel).Generate(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(error)
    assert status is not None and status.message == error.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info) and (info.reason, info.domain) == ("INVALID_VALUE", "dyno")
    assert status.details[1].Unpack(bad) and bad.field_violations[0].field == "sampling.top_p"


@pytest.mark.parametrize("change", [{"routing": 99}, {}])
async def test_what_only_a_proto_can_say_wrong_is_refused(change: dict[str, Any], channel: grpc.aio.Channel) -> None:
    request = pb.GenerateRequest(model="fake", **change)
    if change:
        request.prompt = "abc"
    error = await failure(InferenceServiceStub(channel).Generate(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ("routing" if change else "token_ids") in (error.details() or "")


async def test_tokens_go_there_and_back(channel: grpc.aio.Channel) -> None:
    stub = InferenceServiceStub(channel)
    answer = await stub.Tokenize(pb.TokenizeRequest(model="fake", text="Bär 🐻"))
    assert list(answer.token_ids) == list("Bär 🐻".encode())
    back = await stub.Detokenize(pb.DetokenizeRequest(model="fake", token_ids=answer.token_ids))
    assert back.text == "Bär 🐻"
    error = await failure(stub.Detokenize(pb.DetokenizeRequest(model="fake", token_ids=[VOCAB])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and str(VOCAB) in (error.details() or "")


async def test_models_have_their_cards(channel: grpc.aio.Channel, server: Harness) -> None:
    stub = InferenceServiceStub(channel)
    models = (await stub.ListModels(pb.ListModelsRequest())).models
    assert [model.id for model in models] == ["fake", "slow", "story", "chat"]
    one = (await stub.GetModel(pb.GetModelRequest(model="chat"))).model
    assert one == models[3]
    assert (one.context, one.vocab, one.chat, one.total_parameters) == (CONTEXT, VOCAB, True, 2000)
    async with server.session.get(f"{server.url}/v1/models/chat") as response:
        card = (await response.json())["dyno"]
    assert orjson.loads(one.architecture_json) == card["architecture"]
    assert orjson.loads(one.card_json) == card["card"]
    assert one.attention == card["attention"] and one.feed_forward == card["feed_forward"]
    error = await failure(stub.GetModel(pb.GetModelRequest(model="nobody")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_every_answer_has_the_id_that_is_in_it(channel: grpc.aio.Channel) -> None:
    call = InferenceServiceStub(channel).Generate(GOOD)
    metadata = dict(await call.initial_metadata())
    assert metadata["x-request-id"] == (await call).id


async def test_the_only_model_needs_no_name() -> None:
    async with running(fake_model("only")) as server, grpc.aio.insecure_channel(server.target) as channel:
        assert (await InferenceServiceStub(channel).Generate(pb.GenerateRequest(prompt="abc"))).model == "only"


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"\x12\x02\xff\xfe", b"\x12\xff\xff\xff\xff\x07a"])
async def test_a_message_that_is_none_is_an_error_and_no_more(message: bytes, channel: grpc.aio.Channel) -> None:
    error = await failure(raw(channel)(message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Error" not in (error.details() or "")
    assert (await InferenceServiceStub(channel).Generate(GOOD)).choices


async def test_a_message_over_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    error = await failure(raw(channel)(b"\x12" + b"\x00" * (1 << 20)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_compressed_message_is_not_understood(channel: grpc.aio.Channel) -> None:
    stub = InferenceServiceStub(channel)
    error = await failure(stub.Generate(GOOD, compression=grpc.Compression.Gzip))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_over_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    error = await failure(InferenceServiceStub(channel).Generate(GOOD, metadata=(("x", "y" * 9000),)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_method_is_counted_as_such(channel: grpc.aio.Channel, server: Harness) -> None:
    labels = {"transport": "grpc", "method": "unknown", "code": "UNIMPLEMENTED"}
    before = await server.total("dyno_transport_requests_total", **labels)
    error = await failure(raw(channel, "Nonsense")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await server.total("dyno_transport_requests_total", **labels) == before + 1


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_follows_readiness(service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    async with running(loading=True) as server, grpc.aio.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(request)).status == NOT_SERVING
        watch = health.Watch(request)
        assert (await watch.read()).status == NOT_SERVING
        error = await failure(InferenceServiceStub(channel).Generate(GOOD))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await server.app.serve([fake_model()(server.app.observer)])
        async with asyncio.timeout(2):
            assert (await watch.read()).status == SERVING
        await server.app.drain()
        assert (await watch.read()).status == NOT_SERVING
        # The library ends a call that crosses the server's GOAWAY with CANCELLED.
        for call in (health.Check(request), InferenceServiceStub(channel).Generate(GOOD)):
            assert (await failure(call)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("reflects", [True, False])
async def test_reflection_is_a_setting(reflects: bool) -> None:
    async with running(reflection=reflects) as server, grpc.aio.insecure_channel(server.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        try:
            names = [
                s.name
                async for answer in stub.ServerReflectionInfo(asked)
                for s in answer.list_services_response.service
            ]
            assert reflects and SERVICE in names
        except grpc.aio.AioRpcError as error:
            assert not reflects and error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_two_servers_do_not_share_a_port(server: Harness) -> None:
    for name, port in (("port", server.app.http_port), ("grpc_port", server.app.grpc_port)):
        with pytest.raises(AddressInUse, match=str(port)):
            async with running(loading=True, **{name: port}):  # type: ignore[arg-type]
                pass


async def test_a_reader_that_stops_reading_is_cut_off() -> None:
    models = fake_model(script=b"x" * 60_000, context=1 << 17, blocks=1 << 15)
    async with running(models, limits=Limits(stalled_write_seconds=0.3)) as server:
        options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
        async with grpc.aio.insecure_channel(server.target, options=options) as channel:
            sampling = pb.SamplingParameters(max_tokens=60_000)
            request = pb.GenerateRequest(prompt="x", sampling=sampling, logprobs=1)
            call = InferenceServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest(request=request))
            await call.read()
            await server.settled(30)
            assert await server.total("dyno_requests_total", outcome="cancelled") == 1
            call.cancel()


async def test_a_call_whose_time_is_over_as_it_begins_is_counted_and_no_fault(
    channel: grpc.aio.Channel, server: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"transport": "grpc", "method": "Tokenize", "code": "DEADLINE_EXCEEDED"}
    before = await server.total("dyno_transport_requests_total", **labels)

    def late() -> str:
        time.sleep(0.3)
        return "late"

    monkeypatch.setattr(answering, "new_id", late)
    call = InferenceServiceStub(channel).Tokenize(pb.TokenizeRequest(model="fake", text="abc"), timeout=0.2)
    assert (await failure(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.sleep(0.3)
    assert await server.total("dyno_transport_requests_total", **labels) == before + 1
    assert await server.total("dyno_transport_open_calls", transport="grpc") == 0
    assert not caplog.records
