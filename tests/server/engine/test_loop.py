"""The engine thread and its streams: everything arrives, everybody hears of the end, and idle is idle."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from server.engine.ending import Delta
from server.engine.engine import Engine
from server.engine.loop import EngineLoop
from server.engine.pace import FIRST_STEP, SLACK
from server.engine.request import Outcome
from server.engine.step import Step
from server.engine.stream import EngineFault, Stream
from tests.fakes import Clock, FakeRunner, Recorder, continuation, make_request


def engine(name: str = "a", *, max_rows: int = 64, **options: Any) -> Engine:
    return Engine(name, FakeRunner(**options), observer=Recorder(), max_rows=max_rows)


Start = Callable[..., EngineLoop]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """start(engine, …, stall_seconds=…): a running loop, stopped at the end of the test."""
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


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.002)


class TestStreams:
    async def test_all_tokens_arrive_in_order_and_the_stream_ends(self, start: Start) -> None:
        loop = start(engine())
        streams = [loop.submit("a", make_request([n], 9, id=str(n))) for n in range(20)]
        for n, deltas in enumerate(await asyncio.gather(*map(read, streams))):
            assert tokens(deltas) == continuation([n], 9, 257)
            assert deltas[-1].stats is not None and deltas[-1].stats.outcome is Outcome.LENGTH
        assert await read(streams[0]) == [], "an ended stream stays ended"

    async def test_two_models_take_turns(self, start: Start) -> None:
        loop = start(engine("a", vocab=10), engine("b", vocab=100))
        one, other = loop.submit("a", make_request([7], 5, id="x")), loop.submit("b", make_request([7], 5, id="x"))
        assert tokens(await read(one)) == continuation([7], 5, 10)
        assert tokens(await read(other)) == continuation([7], 5, 100)

    async def test_an_unknown_model_is_a_key_error(self, start: Start) -> None:
        with pytest.raises(KeyError):
            start(engine()).submit("b", make_request([1], 1))

    async def test_a_step_crosses_to_asyncio_once(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        served = engine()
        loop = start(served)
        crossed = 0
        call = loop._asyncio.call_soon_threadsafe

        def counting(*arguments: Any) -> Any:
            nonlocal crossed
            crossed += 1
            return call(*arguments)

        monkeypatch.setattr(loop._asyncio, "call_soon_threadsafe", counting)
        await asyncio.gather(*(read(loop.submit("a", make_request([n], 5, id=str(n)))) for n in range(16)))
        assert crossed <= len(served._runner.steps) < 80  # type: ignore[attr-defined]

    async def test_what_is_not_read_waits_and_is_bounded(self, start: Start) -> None:
        loop = start(engine())
        stream = loop.submit("a", make_request([1], 30, id="slow"))
        await until(lambda: stream.pending == 30)
        assert tokens(await read(stream)) == continuation([1], 30, 257)
        assert stream.pending == 0

    async def test_an_id_taken_fails_only_the_second(self, start: Start) -> None:
        loop = start(engine(sleep=0.005))
        first, second = (loop.submit("a", make_request([1], 9, id="same")) for _ in range(2))
        with pytest.raises(EngineFault, match="already here"):
            await read(second)
        assert tokens(await read(first)) == continuation([1], 9, 257)
        assert loop.alive

    async def test_counts_include_what_the_thread_has_not_seen(self, start: Start) -> None:
        gate = threading.Event()
        served = engine(max_rows=1, fault=lambda step: void(gate.wait(5)))
        loop = start(served)
        streams = [loop.submit("a", make_request([n], 1, id=str(n))) for n in range(3)]
        assert loop.waiting("a") + loop.running("a") == 3
        await until(lambda: loop.running("a") == 1)
        streams.append(loop.submit("a", make_request([9], 1, id="9")))
        assert (loop.waiting("a"), loop.running("a")) == (3, 1)
        gate.set()
        await asyncio.gather(*map(read, streams))
        assert (loop.waiting("a"), loop.running("a")) == (0, 0)


class TestCancel:
    async def test_a_cancelled_stream_ends_with_its_facts(self, start: Start) -> None:
        served = engine(sleep=0.001)
        loop = start(served)
        stream = loop.submit("a", make_request([1], 200, id="a"))
        deltas = [await anext(stream)]
        stream.cancel()
        stream.cancel(Outcome.DEADLINE)
        deltas += await read(stream)
        stats = deltas[-1].stats
        assert stats is not None and stats.outcome is Outcome.CANCELLED
        assert tokens(deltas) == continuation([1], stats.completion_tokens, 257)
        await until(lambda: not served.has_work)

    async def test_from_another_thread_and_while_queued(self, start: Start) -> None:
        loop = start(engine(sleep=0.001, max_rows=1))
        running, queued = (loop.submit("a", make_request([n], 200, id=str(n))) for n in range(2))
        await asyncio.to_thread(queued.cancel, Outcome.DEADLINE)
        (only,) = await read(queued)
        assert only.stats is not None and (only.stats.outcome, only.stats.steps) == (Outcome.DEADLINE, 0)
        running.cancel()
        await read(running)

    async def test_after_the_end_nothing_is_sent(self, start: Start) -> None:
        loop = start(engine())
        stream = loop.submit("a", make_request([1], 2, id="a"))
        await read(stream)
        stream.cancel()
        assert loop._commands == []

    async def test_at_any_time(self, start: Start) -> None:
        served = engine(sleep=0.0005)
        loop = start(served)

        async def one(n: int) -> Outcome:
            stream = loop.submit("a", make_request([n], 20, id=str(n)))
            asyncio.get_running_loop().call_later(0.0007 * (n % 37), stream.cancel)
            stats = (await read(stream))[-1].stats
            assert stats is not None
            return stats.outcome

        outcomes = await asyncio.gather(*(one(n) for n in range(150)))
        assert set(outcomes) <= {Outcome.CANCELLED, Outcome.LENGTH} and Outcome.CANCELLED in outcomes
        assert (loop.waiting("a"), loop.running("a"), loop._streams) == (0, 0, {})
        await until(lambda: not served.has_work)
        served.check()


class TestEnds:
    async def test_idle_takes_no_processor(self, start: Start) -> None:
        loop = start(engine())
        await read(loop.submit("a", make_request([1], 3, id="a")))
        before = time.thread_time(), time.process_time()
        await asyncio.sleep(0.3)
        spent = (time.process_time() - before[1]) - (time.thread_time() - before[0])
        assert spent < 0.02, "some thread does not sleep"

    async def test_stop_ends_what_is_left_as_cancelled(self) -> None:
        loop = EngineLoop([engine(sleep=0.001, max_rows=1)])
        loop.start()
        streams = [loop.submit("a", make_request([n], 200, id=str(n))) for n in range(3)]
        await anext(streams[0])
        threads = threading.active_count()
        await loop.stop()
        assert threading.active_count() == threads - 1
        for stream in streams:
            stats = (await read(stream))[-1].stats
            assert stats is not None and stats.outcome is Outcome.CANCELLED
        assert not loop.alive
        with pytest.raises(EngineFault, match="does not run"):
            loop.submit("a", make_request([1], 1))

    async def test_a_loop_that_was_never_started_takes_nothing(self) -> None:
        loop = EngineLoop([engine()])
        assert not loop.alive
        with pytest.raises(EngineFault):
            loop.submit("a", make_request([1], 1))
        await loop.stop()

    async def test_when_the_thread_dies_everybody_hears_of_it(self, start: Start) -> None:
        def fault(step: Step) -> None:
            if any(len(row.request.outputs) == 2 for row in step.rows):
                raise SystemExit("pulled the plug")

        loop = start(engine(fault=fault))
        streams = [loop.submit("a", make_request([n], 9, id=str(n))) for n in range(2)]
        for stream in streams:
            said: list[int] = []
            with pytest.raises(EngineFault, match="SystemExit: pulled the plug"):
                async for delta in stream:
                    said += delta.tokens
            assert len(said) == 2, "what was there is read first"
        await asyncio.wait_for(loop.gone(), 5)
        assert not loop.alive
        with pytest.raises(EngineFault, match="pulled the plug"):
            loop.submit("a", make_request([1], 1))

    async def test_a_step_that_stands_still_fails_the_streams_and_may_come_back(self, start: Start) -> None:
        gate = threading.Event()

        def fault(step: Step) -> None:
            if any(row.request.id == "stuck" for row in step.rows):
                gate.wait(10)

        seen = Recorder()
        served = Engine("a", FakeRunner(fault=fault), observer=seen)
        loop = start(served, stall_seconds=0.1)
        await read(loop.submit("a", make_request([1, 2, 3, 4], 1, id="first")))
        seen.requests.clear()
        assert loop.alive
        stream = loop.submit("a", make_request([1], 9, id="stuck"))
        with pytest.raises(EngineFault, match="longer than"):
            await asyncio.wait_for(read(stream), 5)
        assert not loop.alive
        with pytest.raises(EngineFault, match="stands still"):
            loop.submit("a", make_request([1], 1, id="x"))
        gate.set()
        await until(lambda: loop.alive and not served.has_work)
        assert [stats.outcome for stats in seen.requests] == [Outcome.ERROR], "nobody waits for it any more"
        assert tokens(await read(loop.submit("a", make_request([3], 2, id="next")))) == continuation([3], 2, 257)

    async def test_it_is_logged_once_that_it_stands_still_and_that_it_moves_again(
        self, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = threading.Event()
        gate.set()
        loop = start(engine(fault=lambda step: void(gate.wait(10))), stall_seconds=0.1)
        await read(loop.submit("a", make_request([1, 2, 3, 4], 1, id="first")))
        gate.clear()
        streams = [loop.submit("a", make_request([n], 9, id=str(n))) for n in range(3)]
        for stream in streams:
            with pytest.raises(EngineFault):
                await asyncio.wait_for(read(stream), 5)
        await asyncio.sleep(0.1)
        gate.set()
        await until(lambda: len(caplog.records) == 2)
        stall, moves = caplog.records
        assert (stall.levelname, moves.levelname) == ("CRITICAL", "WARNING")
        stands = r"the engine stands still: a step of model a takes longer than \S+ s; 3 requests fail"
        assert re.fullmatch(stands, stall.message)
        assert re.fullmatch(r"the engine moves again: a step of model a took \S+ s", moves.message)

    async def test_a_thread_that_is_stuck_between_two_steps_stands_still_too(self, start: Start) -> None:
        gate = threading.Event()
        loop = start(engine(), stall_seconds=0.1)
        held = asyncio.create_task(loop.call(lambda: gate.wait(10)))
        await asyncio.sleep(0)
        stream = loop.submit("a", make_request([1], 9, id="a"))
        for waiting in (held, asyncio.create_task(read(stream))):
            with pytest.raises(EngineFault, match="longer than"):
                await asyncio.wait_for(waiting, 5)
        assert not loop.alive
        gate.set()
        await until(lambda: loop.alive and loop.waiting("a") == 0)
        assert tokens(await read(loop.submit("a", make_request([3], 2, id="next")))) == continuation([3], 2, 257)

    async def test_what_its_caller_was_told_has_failed_is_not_done_later(self, start: Start) -> None:
        gate = threading.Event()
        loop = start(engine(), stall_seconds=0.1)
        held = asyncio.create_task(loop.call(lambda: gate.wait(10)))
        await asyncio.sleep(0)
        late = asyncio.create_task(loop.add(Engine("b", FakeRunner(), observer=Recorder())))
        for waiting in (held, late):
            with pytest.raises(EngineFault, match="longer than"):
                await asyncio.wait_for(waiting, 5)
        gate.set()
        await until(lambda: loop.alive)
        await read(loop.submit("a", make_request([3], 2, id="next")))
        with pytest.raises(KeyError):
            loop.running("b")

    async def test_a_stream_that_takes_nothing_fails_alone(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = Recorder()
        served = Engine("a", FakeRunner(sleep=0.001), observer=seen)
        loop = start(served)
        streams = [loop.submit("a", make_request([n], 20, id=str(n))) for n in range(3)]

        def full(delta: Delta) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(streams[1], "push", full)
        with pytest.raises(EngineFault, match="no room"):
            await read(streams[1])
        for n in (0, 2):
            assert tokens(await read(streams[n])) == continuation([n], 20, 257)
        await until(lambda: not served.has_work)
        assert loop.alive and loop._streams == {}
        ends = {stats.id: stats.outcome for stats in seen.requests}
        assert ends == {"0": Outcome.LENGTH, "1": Outcome.ERROR, "2": Outcome.LENGTH}

    async def test_a_first_step_may_have_something_to_build(self, start: Start) -> None:
        loop = start(engine(fault=Builds(0.3)), stall_seconds=0.05)
        stream = loop.submit("a", make_request([1], 3, id="a"))
        assert tokens(await read(stream)) == continuation([1], 3, 257)

    def test_a_step_may_take_what_those_before_make_likely(self) -> None:
        clock = Clock()
        served = Engine("a", FakeRunner(clock=clock, step_seconds=2.0), observer=Recorder(), clock=clock)
        assert served.longest_step == FIRST_STEP
        served.add(make_request(range(20), 3, id="a"))
        served.step()
        assert served.longest_step == pytest.approx(SLACK * 512 * 2.0 / 20)
        served.step()
        assert served.longest_step == pytest.approx(SLACK * 512 * 2.0 / 20), "one token at a time is no measure"
        served.add(make_request(range(100, 140), 3, id="b"))
        served.step()
        assert served.longest_step == pytest.approx(SLACK * 512 * 2.0 / 41)


class Builds:
    """Takes its time, once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, step: Step) -> None:
        time.sleep(self.seconds)
        self.seconds = 0.0


def void(_: object) -> None:
    """Nothing, whatever comes in."""
