"""Priorities, over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.server.callers import Caller
from tests.server.kit import Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Harness]:
    """A model that takes one request at a time."""
    async with running(fake_model("one", sleep=0.02, rows=1)) as harness:
        yield harness


async def test_priority_says_who_waits(caller: Caller, server: Harness) -> None:
    """One row at a time: while the first is served, the last of the others comes in front."""
    order: list[str] = []

    async def ask(name: str, priority: int) -> None:
        await caller.whole(model="one", prompt=name, max_tokens=5, priority=priority)
        order.append(name)

    first = asyncio.create_task(ask("first", 0))
    await asyncio.sleep(0.03)
    others = [asyncio.create_task(ask(name, priority)) for name, priority in (("low", 50), ("mid", 0), ("high", -50))]
    await asyncio.gather(first, *others)
    assert order == ["first", "high", "mid", "low"]
    await server.settled()
