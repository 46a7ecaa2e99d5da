"""Constraints that take their time: only the requests that have them wait, nothing spins, and all of it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from server.engine import patience
from server.engine.constraint import Known, bits_of
from server.engine.engine import Engine
from server.engine.loop import EngineLoop
from server.engine.patience import GRACE, PAUSE
from server.engine.request import Outcome, Request
from tests.fakes import FakeRunner, Recorder, continuation, make_request
from tests.server.engine.conftest import Rig

Make = Callable[..., Rig]
WORD = 7


class Thinking(Known):
    """Allows one word, again and again; what may come next is known when the test says so."""

    def __init__(self, ready: bool = False) -> None:
        self._coming = Future[None]()
        self.closed = 0
        if ready:
            self.answer()

    @property
    def awaits(self) -> bool:  # type: ignore[override]
        return not self._coming.done()

    def look_ahead(self) -> Future[None] | None:
        return self._coming if self.awaits else None

    def answer(self, failure: str | None = None) -> None:
        self.failure = failure
        self._coming.set_result(None)

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        assert not self.awaits and self.failure is None, "asked too early, or too late"
        return bits_of([WORD])

    def push(self, token: int) -> bool:
        assert token == WORD
        self._coming = Future()
        return False

    def close(self) -> None:
        self.closed += 1


class SlowToGuess(Thinking):
    """Knows at once what comes next, and never what may follow a guess."""

    def consider(self, ahead: Sequence[int]) -> None:
        self._coming = Future()

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        assert not ahead
        return bits_of([WORD])

    def push(self, token: int) -> bool:
        super().push(token)
        self.answer()
        return False


def slow(constraint: Thinking, id: str = "slow", tokens: int = 3, **more: object) -> Request:
    return make_request([1, 2], tokens, id=id, constraint=constraint, **more)


@pytest.mark.parametrize("said", [0, 1], ids=["queued", "running"])
def test_others_have_a_token_in_every_step(rig: Make, said: int) -> None:
    r, thinking = rig(), Thinking(ready=said > 0)
    r.add(slow(thinking), make_request([3], 9, id="free"))
    for step in range(1, 7):
        r.step()
        assert (len(r.said("slow")), len(r.said("free"))) == (said, step)
    thinking.answer()
    r.step()
    assert (len(r.said("slow")), len(r.said("free"))) == (said + 1, 7)
    while r.engine.has_work:
        if thinking.awaits:
            thinking.answer()
        r.step()
    assert r.said("slow") == [WORD] * 3 and r.said("free") == continuation([3], 9, 257)


def test_each_is_waited_for_once_and_a_step_waits_for_all_together(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], list[float]()

    def waiting(coming: Sequence[Future[None]], seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds * 0.75

    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience, "wait", waiting)
    r = rig()
    r.add(*(slow(Thinking(), str(n)) for n in range(40)), make_request([3], 5, id="free"))
    r.step(4)
    assert len(r.said("free")) == 4
    assert len(waits) == 40 and waits[:2] == pytest.approx([GRACE, GRACE / 4]) and now[0] <= GRACE


def test_telling_what_the_queue_is_short_of_begins_nothing(rig: Make) -> None:
    class Counted(Thinking):
        begun = 0

        def look_ahead(self) -> Future[None] | None:
            self.begun += 1
            return super().look_ahead()

    r, thinking = rig(), Counted()
    r.add(slow(thinking))
    assert r.engine._scheduler.scarce is None and thinking.begun == 0
    r.step()
    assert thinking.begun == 1


def test_when_all_wait_that_is_no_fault(rig: Make) -> None:
    r, first, second = rig(), Thinking(), Thinking(ready=True)
    r.add(slow(first, "first"), slow(second, "second", tokens=2))
    r.step()
    assert r.engine.ran
    for _ in range(10):
        r.step()
        assert not r.engine.ran and len(r.engine.late) == 2, "whoever steps it knows what to wait for"
    assert len(r.runner.steps) == 1, "nothing was computed for nobody"
    first.answer()
    second.answer()
    r.step()
    assert (r.said("first"), r.said("second")) == ([WORD], [WORD, WORD])


async def test_the_thread_neither_spins_nor_stands_still_while_all_wait() -> None:
    seen, thinking = Recorder(), Thinking()
    loop = EngineLoop([Engine("a", FakeRunner(), observer=seen)], stall_seconds=0.2)
    loop.start()
    try:
        stream = loop.submit("a", slow(thinking, tokens=1))
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            assert loop.alive, "to wait is not to stand still"
            await asyncio.sleep(0.01)
        steps, waited = len(seen.steps), time.monotonic() - began
        assert 1 < steps <= waited / PAUSE + 2
        free = loop.submit("a", make_request([3], 5, id="free"))
        assert [token async for delta in free for token in delta.tokens] == continuation([3], 5, 257)
        thinking.answer()
        assert [token async for delta in stream for token in delta.tokens] == [WORD]
    finally:
        await loop.stop()


async def test_who_waits_in_one_engine_holds_up_no_other() -> None:
    thinking = Thinking()
    loop = EngineLoop([Engine(name, FakeRunner(), observer=Recorder()) for name in "ab"])
    loop.start()
    try:
        loop.submit("a", slow(thinking))
        free = loop.submit("b", make_request([3], 200, id="free"))
        began = time.monotonic()
        assert sum([len(delta.tokens) async for delta in free]) == 200
        assert time.monotonic() - began < 100 * PAUSE
    finally:
        await loop.stop()


@pytest.mark.parametrize("said", [0, 1], ids=["queued", "running"])
@pytest.mark.parametrize("end", [Outcome.CANCELLED, Outcome.DEADLINE])
def test_who_waits_can_leave_at_any_time(rig: Make, said: int, end: Outcome) -> None:
    r, thinking = rig(), Thinking(ready=said > 0)
    r.add(slow(thinking, deadline=50.0))
    r.step(4)
    if end is Outcome.CANCELLED:
        r.engine.cancel("slow")
    r.clock.now = 60.0 if end is Outcome.DEADLINE else 10.0
    r.step()
    assert r.stats("slow").outcome is end and r.said("slow") == [WORD] * said
    assert not r.engine.has_work and r.seen.steps[-1].groups[0].used == 0
    assert thinking.closed == 1, "nobody works for it any more"


def test_what_may_come_next_is_looked_for_as_soon_as_a_token_is_out(rig: Make) -> None:
    """And not only when the next step asks for it, one request after another."""

    class Looking(Known):
        begun = False

        def look_ahead(self) -> None:
            self.begun = True

        def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
            return bits_of([WORD])

        def push(self, token: int) -> bool:
            self.begun = False
            return False

    r, looking = rig(), Looking()
    r.add(make_request([1], 3, id="a", constraint=looking))
    r.step()
    assert r.said("a") == [WORD] and looking.begun


def test_one_that_fails_while_it_waits_ends_alone_and_nothing_is_run_twice(rig: Make) -> None:
    r, thinking = rig(), Thinking(ready=True)
    r.add(slow(thinking), *(make_request([n], 9, id=str(n)) for n in range(4)))
    r.step(3)
    thinking.answer("it takes too long to follow")
    r.finish()
    assert (r.stats("slow").outcome, r.last("slow").error) == (Outcome.REJECTED, "it takes too long to follow")
    assert all(r.said(str(n)) == continuation([n], 9, 257) for n in range(4))
    assert len(r.runner.steps) == 9


def test_no_more_run_than_a_step_has_tokens_for(rig: Make) -> None:
    r = rig(max_batch_tokens=2)
    thinkers = [Thinking(ready=True) for _ in range(5)]
    r.add(*(slow(thinking, str(n)) for n, thinking in enumerate(thinkers)))
    while r.engine.has_work:
        r.step()
        assert r.engine.num_running <= 2
        for thinking in thinkers:
            if thinking.awaits:
                thinking.answer()
    assert all(r.said(str(n)) == [WORD] * 3 for n in range(5))


def test_a_guess_that_takes_long_to_look_into_is_left_out(rig: Make) -> None:
    class Same:
        def __init__(self, request: Request) -> None: ...

        def draft(self, most: int) -> list[int]:
            return [WORD] * most

    r, thinking = rig(speculate=3, drafter=Same), SlowToGuess(ready=True)
    r.add(slow(thinking, tokens=6))
    r.finish()
    assert r.said("slow") == [WORD] * 6 and r.stats("slow").drafted_tokens == 0
