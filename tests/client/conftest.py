from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from client.api import Client
from client.connect import connect
from tests.client.fake_server import FakeServer


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
async def client(request: pytest.FixtureRequest, fake: FakeServer) -> AsyncIterator[Client]:
    """Either client, connected to the fake."""
    async with connect(getattr(fake, request.param)) as made:
        yield made
