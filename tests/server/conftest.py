"""One application for each test file, called over REST and over gRPC, there with a call each and with one for many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import grpc
import pytest
import pytest_asyncio
import structlog
import uvicorn.server

from tests.server.callers import Caller, ManyCaller, RestCaller, RpcCaller
from tests.server.kit import Harness, fake_model, running

SCRIPT = "Hänsel und Gretel, 🐻 und der Wolf. END of it".encode()


@pytest.fixture(autouse=True, scope="package")
def plain_tracebacks() -> None:
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])


@pytest.fixture(autouse=True, scope="package")
def brief_ends() -> Iterator[None]:
    """uvicorn looks every tenth of a second whether its connections have ended: here more often, for there are many."""

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.server, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Harness]:
    """fake counts on its fingers, slow takes 10 ms a step, story tells the same story, chat takes conversations."""
    models = (
        fake_model("fake"),
        fake_model("slow", sleep=0.01),
        fake_model("story", script=SCRIPT),
        fake_model("chat", chat=True, moe=False),
    )
    async with running(*models) as harness:
        yield harness


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(server: Harness) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture(params=["rest", "grpc", "many"])
def caller(request: pytest.FixtureRequest, server: Harness, channel: grpc.aio.Channel) -> Caller:
    match request.param:
        case "rest":
            return RestCaller(server)
        case "grpc":
            return RpcCaller(channel)
        case _:
            return ManyCaller(channel)


@pytest.fixture
def callers(server: Harness, channel: grpc.aio.Channel) -> tuple[Caller, Caller]:
    return RestCaller(server), RpcCaller(channel)
