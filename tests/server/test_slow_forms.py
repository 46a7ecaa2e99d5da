"""A form that takes too long to follow ends its own call, with the same words over both transports, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from server.limits import Limits
from tests.fakes import continuation
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller
from tests.server.kit import VOCAB, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRICT = Limits(guidance_seconds=10.0, guidance_step_seconds=(0.0, 0.0))  # the second token of a form is one too many
SLOW = {"prompt": "say", "max_tokens": 50, "form": {"regex": "[a-z]{40}"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Harness]:
    async with running(fake_model(sleep=0.002), limits=STRICT) as harness:
        yield harness


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["rest", "grpc"])
async def caller(request: pytest.FixtureRequest, server: Harness) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield RestCaller(server) if request.param == "rest" else RpcCaller(channel)


@pytest.mark.parametrize("choices", [1, 4])
async def test_a_form_that_takes_too_long_is_an_invalid_request(caller: Caller, server: Harness, choices: int) -> None:
    other = asyncio.create_task(caller.stream(prompt="free", max_tokens=40))
    for call in (caller.whole, caller.stream):
        with pytest.raises(Refused) as refused:
            await call(**SLOW, n=choices)
        assert (refused.value.kind, refused.value.code) in (("invalid", "invalid_value"), ("invalid_value",) * 2)
        assert refused.value.message == "the regular expression cannot be used: it takes too long to follow"
    [told] = await other
    assert told.tokens == continuation(b"free", 40, VOCAB)
    await server.settled()
    [told] = await caller.whole(prompt="free", max_tokens=5)
    assert told.tokens == continuation(b"free", 5, VOCAB)


async def test_a_mistake_in_a_form_is_no_fault_of_ours(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused):
        await caller.whole(**SLOW)
    said = [record for record in caplog.records if record.name.startswith("server.engine")]
    assert not any(record.exc_info or record.levelname in ("WARNING", "ERROR") for record in said)
