"""A client runs on uvloop where it is installed, and on asyncio's own loop where it is not."""

from __future__ import annotations

import asyncio
import sys

import pytest

from client import loop
from client.connect import connect
from client.load.arrivals import Constant, offsets
from client.load.runner import Load, run
from client.load.trace import Trace, TraceRow
from tests.client.fake_server import FakeServer


def test_the_loop_is_the_fastest_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    async def own() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    uvloop = pytest.importorskip("uvloop")
    assert isinstance(loop.run(own()), uvloop.Loop)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert not isinstance(loop.run(own()), uvloop.Loop)


def test_nothing_is_sent_early_although_its_timers_may_be() -> None:
    """uvloop counts whole milliseconds from the beginning of a pass, so half of the timers between two are early."""
    arrivals = Constant(370.0)
    rows = (TraceRow(0.0, "once upon a time", 1),) * 60

    async def loaded() -> list[float]:
        async with FakeServer() as fake, connect(fake.http) as client:
            done = await run(client, Load(Trace(rows).timed(offsets(arrivals, len(rows), 0)), arrivals, "fake"))
        return [record.lag for record in done.records]

    assert min(loop.run(loaded())) >= 0
