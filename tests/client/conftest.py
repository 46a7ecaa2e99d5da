from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from client import launch, loop
from client.api import Client
from client.connect import connect
from tests.client.fake_server import FakeServer


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that clients run on."""
    return {"client": loop.factory() or asyncio.new_event_loop}


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
async def client(request: pytest.FixtureRequest, fake: FakeServer) -> AsyncIterator[Client]:
    """Either client, connected to the fake."""
    async with connect(getattr(fake, request.param)) as made:
        yield made


def fake_command(module: str, *arguments: str) -> list[str]:
    """The fake in place of the real server."""
    assert module == "server"
    return [sys.executable, "-m", "tests.client.fake_server", *arguments]


@pytest.fixture
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a server process gets the fake."""
    monkeypatch.setattr(launch, "command", fake_command)
    monkeypatch.setattr(launch, "require_server", lambda: None)


@pytest.fixture(scope="session")
def fake_process() -> Iterator[launch.ServerProcess]:
    """One fake in a process of its own, for tests whose client has an event loop of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "command", fake_command)
        patch.setattr(launch, "require_server", lambda: None)
        flags = ["--model", "fast", "--model", "slow", "--slow", "slow=3", "--first-token", "0.01", "--gap", "0.002"]
        server = launch.ServerProcess(flags)
        server.start()
    yield server
    server.stop()
