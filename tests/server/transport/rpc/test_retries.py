"""Refusals that a client's library tries again by itself, as its service config says (gRFC A6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.transport.rpc.listener import SERVICE
from tests.server.kit import Harness, fake_model, running

POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "300s",  # the server says sooner
    "maxBackoff": "300s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
CONFIG = json.dumps({"methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": POLICY}]})
REQUEST = pb.GenerateRequest(prompt="abc", sampling=pb.SamplingParameters(max_tokens=2))


async def generate(stub: Any) -> int:
    answer = await stub.Generate(REQUEST)
    return len(answer.choices)


async def stream(stub: Any) -> int:
    messages = [message async for message in stub.StreamGenerate(pb.StreamGenerateRequest(request=REQUEST))]
    return sum(message.HasField("finished") for message in messages)


async def watch(stub: Any) -> int:
    call = stub.WatchRouting(pb.WatchRoutingRequest(interval=0.1))
    load = await call.read()
    call.cancel()
    return int(load is not grpc.aio.EOF)


CALLS: dict[str, Callable[[Any], Awaitable[int]]] = {
    "Generate": generate,
    "StreamGenerate": stream,
    "WatchRouting": watch,
}


async def refused(server: Harness, method: str) -> None:
    """Wait until a call of this method was turned away."""
    async with asyncio.timeout(5):
        while not await server.total(  # noqa: ASYNC110
            "dyno_transport_requests_total", method=method, code="UNAVAILABLE"
        ):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_that_comes_before_the_models_is_tried_again(method: str) -> None:
    options = [("grpc.service_config", CONFIG)]
    async with running(loading=True) as server, grpc.aio.insecure_channel(server.target, options=options) as channel:
        call = asyncio.ensure_future(CALLS[method](InferenceServiceStub(channel)))
        await refused(server, method)
        await server.app.serve([fake_model()(server.app.observer)])
        async with asyncio.timeout(10):
            assert await call == 1
