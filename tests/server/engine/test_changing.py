"""Engines come and go while others are stepped, work is done between steps, and a dead thread leaves closed books."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from server.engine.ending import Delta
from server.engine.engine import Engine
from server.engine.loop import EngineLoop
from server.engine.request import Outcome
from server.engine.step import DeviceLost, Step
from server.engine.stream import EngineFault, Stream
from tests.fakes import FakeRunner, Recorder, continuation, make_request

Start = Callable[..., EngineLoop]


def engine(name: str = "a", **options: Any) -> Engine:
    return Engine(name, FakeRunner(**options), observer=Recorder())


def told(engine: Engine) -> Recorder:
    observer = engine._observer
    assert isinstance(observer, Recorder)
    return observer


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    loops: list[EngineLoop] = []

    def begin(*engines: Engine, **options: Any) -> EngineLoop:
        loops.append(EngineLoop(engines, **options))
        loops[-1].start()
        return loops[-1]

    yield begin
    for loop in loops:
        await loop.stop()


async def read(stream: Stream) -> list[Delta]:
    return [delta async for delta in stream]


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


async def test_an_engine_comes_while_another_is_stepped(start: Start) -> None:
    loop = start(engine("a", sleep=0.002))
    first = asyncio.create_task(read(loop.submit("a", make_request([1], 40, id="x"))))
    await loop.add(engine("b"))
    assert tokens(await read(loop.submit("b", make_request([2], 9, id="x")))) == continuation([2], 9, 257)
    assert not first.done()
    assert tokens(await first) == continuation([1], 40, 257)


async def test_an_engine_that_goes_ends_its_requests_and_no_others(start: Start) -> None:
    loop = start(engine("a", sleep=0.002), going := engine("b", sleep=0.002))
    stays, goes = (loop.submit(name, make_request([1], 40, id="x")) for name in "ab")
    await loop.remove("b")
    last = (await read(goes))[-1].stats
    assert last is not None and last.outcome is Outcome.CANCELLED
    assert [stats.outcome for stats in told(going).requests] == [Outcome.CANCELLED]
    assert tokens(await read(stays)) == continuation([1], 40, 257)
    with pytest.raises(KeyError):
        loop.submit("b", make_request([1], 1))


async def test_work_is_done_on_the_engine_thread_and_its_faults_come_back(start: Start) -> None:
    loop = start(engine())
    assert await loop.call(lambda: threading.current_thread().name) == "engine"
    with pytest.raises(ZeroDivisionError):
        await loop.call(lambda: 1 // 0)
    assert loop.alive


async def test_work_that_a_stall_holds_up_fails(start: Start) -> None:
    gate = threading.Event()

    def fault(step: Step) -> None:
        if step.rows[0].request.id == "stuck":
            gate.wait(5)

    loop = start(engine(fault=fault), stall_seconds=0.1)
    await read(loop.submit("a", make_request([1, 2, 3, 4], 1)))  # how long a step takes is known from the first
    stream = loop.submit("a", make_request([1], 3, id="stuck"))
    await asyncio.sleep(0.02)
    with pytest.raises(EngineFault, match="longer than"):
        await loop.call(lambda: None)
    gate.set()
    with pytest.raises(EngineFault):
        await read(stream)


def lost(step: Step) -> None:
    raise DeviceLost("gone")


async def test_a_dead_thread_tells_how_every_request_ended(start: Start) -> None:
    dying, other = engine("a", fault=lost), engine("b", sleep=0.01)
    loop = start(other, dying)
    streams = [loop.submit("b", make_request([1], 100, id=str(n))) for n in range(3)]
    await asyncio.sleep(0.05)
    streams.append(loop.submit("a", make_request([1], 3)))
    for stream in streams:
        with pytest.raises(EngineFault, match="gone"):
            await read(stream)
    for recorder in (told(dying), told(other)):
        assert recorder.arrivals and len(recorder.arrivals) == len(recorder.requests)
        assert {stats.outcome for stats in recorder.requests} == {Outcome.ERROR}
        assert (recorder.steps[-1].running, recorder.steps[-1].waiting) == (0, 0)
    with pytest.raises(EngineFault, match="gone"):
        loop.submit("b", make_request([1], 1))
    with pytest.raises(EngineFault, match="gone"):
        await loop.call(lambda: None)
