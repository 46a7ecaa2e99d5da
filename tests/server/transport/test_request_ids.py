"""Ids that callers give their calls, over both transports: given back when they are plain, never used inside."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.server.kit import Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAIN = ["a", "trace-1", "A_b-9" * 12, "x" * 64]
OTHERS = ["", "a b", "a/b", "x" * 65, "a.b", "{}", "%0d%0a"]


async def over_rest(server: Harness, given: str | None) -> tuple[str, str]:
    """(id told in the header, id of the answer)"""
    headers = {} if given is None else {"X-Request-ID": given}
    body = {"model": "fake", "prompt": "abc", "max_tokens": 1}
    async with server.session.post(f"{server.url}/v1/completions", json=body, headers=headers) as response:
        assert response.headers.getall("x-request-id") == [response.headers["x-request-id"]]
        return response.headers["x-request-id"], (await response.json())["id"].removeprefix("cmpl-")


async def over_grpc(channel: grpc.aio.Channel, given: str | None) -> tuple[str, str]:
    metadata = None if given is None else (("x-request-id", given),)
    request = pb.GenerateRequest(model="fake", prompt="abc", sampling=pb.SamplingParameters(max_tokens=1))
    call = InferenceServiceStub(channel).Generate(request, metadata=metadata)
    answer = await call
    told = [value for name, value in await call.initial_metadata() if name == "x-request-id"]
    assert len(told) == 1
    return str(told[0]), answer.id


@pytest.mark.parametrize("given", [*PLAIN, *OTHERS, None])
async def test_a_plain_id_comes_back(given: str | None, server: Harness, channel: grpc.aio.Channel) -> None:
    for told, own in (await over_rest(server, given), await over_grpc(channel, given)):
        assert told == (given if given in PLAIN else own)
        assert own != given and len(own) == 24


async def test_many_calls_may_have_the_same(server: Harness) -> None:
    answers = await asyncio.gather(*(over_rest(server, "same") for _ in range(5)))
    assert {told for told, _ in answers} == {"same"}
    assert len({own for _, own in answers}) == 5


async def test_a_refusal_tells_it_too(server: Harness, channel: grpc.aio.Channel) -> None:
    url = f"{server.url}/v1/completions"
    async with server.session.post(
        url, data=b"{", headers={"x-request-id": "mine", "content-type": "application/json"}
    ) as r:
        assert (r.status, r.headers["x-request-id"]) == (400, "mine")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await InferenceServiceStub(channel).Generate(pb.GenerateRequest(), metadata=(("x-request-id", "mine"),))
    assert dict(refused.value.trailing_metadata())["x-request-id"] == "mine"
