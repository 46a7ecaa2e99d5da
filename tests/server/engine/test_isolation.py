"""Faults on purpose: the guilty end with an error, the others as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from model.config import Full
from server.engine.blocks import OutOfBlocks
from server.engine.constraint import ConstraintFailed, Known, bits_of
from server.engine.pace import LEAST_CHUNK, NoProgress, Progress
from server.engine.request import Outcome, Request
from server.engine.routes import RouteLog
from server.engine.stats import GroupUse
from server.engine.step import CacheGroup, DeviceLost, MixtureShape, Row, Step
from tests.fakes import Recorder, continuation, expert_tokens, make_request
from tests.server.engine.conftest import Rig

Make = Callable[..., Rig]
MIXTURES = (MixtureShape(0, 4, 2),)


def poison(*ids: str, outputs: int = 0) -> Callable[[Step], None]:
    """A fault in every step that has one of these requests, once it has said `outputs` tokens."""

    def fault(step: Step) -> None:
        if any(row.request.id in ids and len(row.request.outputs) >= outputs for row in step.rows):
            raise RuntimeError("bad row")

    return fault


def nan(id: str, outputs: int = 0) -> Callable[[Row], bool]:
    return lambda row: row.request.id == id and len(row.request.outputs) >= outputs


class Right:
    """A drafter that knows what the fake says next."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def draft(self, most: int) -> list[int]:
        return continuation([*self.request.prompt, *self.request.outputs], most, 257)


class TestExceptions:
    @pytest.mark.parametrize("guilty", [["3"], ["0"], ["15"], ["2", "3", "9"]], ids=str)
    def test_only_the_guilty_fail(self, rig: Make, guilty: list[str]) -> None:
        r = rig(mixtures=MIXTURES, fault=poison(*guilty, outputs=2))
        for n in range(16):
            r.add(make_request([n, 1], 5, id=str(n)))
        r.finish()
        for n in range(16):
            stats, whole = r.stats(str(n)), continuation([n, 1], 5, 257)
            if str(n) in guilty:
                assert (stats.outcome, r.last(str(n)).error) == (Outcome.ERROR, "RuntimeError: bad row")
                assert r.said(str(n)) == whole[:2]
            else:
                assert stats.outcome is Outcome.LENGTH and r.said(str(n)) == whole
                assert [list(layer.expert_tokens) for layer in stats.routing] == expert_tokens(
                    [n, 1, *whole[:-1]], MIXTURES
                )
        assert not r.engine.has_work

    def test_finding_one_guilty_row_takes_few_runs(self, rig: Make) -> None:
        calls: list[int] = []
        bad = poison("21")

        def fault(step: Step) -> None:
            calls.append(len(step.rows))
            bad(step)

        r = rig(fault=fault)
        for n in range(32):
            r.add(make_request([n], 1, id=str(n)))
        r.finish()
        assert calls[0] == 32 and len(calls) == 1 + 2 * 5

    def test_a_batch_too_large_for_memory_goes_through_in_parts(self, rig: Make) -> None:
        def fault(step: Step) -> None:
            if step.num_tokens > 4:
                raise MemoryError

        r = rig(fault=fault)
        for n in range(8):
            r.add(make_request([n, n], 3, id=str(n)))
        r.finish()
        assert all(r.said(str(n)) == continuation([n, n], 3, 257) for n in range(8))

    def test_a_lost_device_is_nobodys_fault(self, rig: Make) -> None:
        def fault(step: Step) -> None:
            raise DeviceLost("gone")

        r = rig(fault=fault)
        r.add(make_request([1], 1))
        with pytest.raises(DeviceLost):
            r.engine.step()

    def test_the_engine_serves_on_and_the_books_balance(self, rig: Make) -> None:
        r = rig(fault=poison("bad"))
        r.add(make_request(range(9), 2, id="bad"))
        r.finish()
        r.add(make_request(range(9), 2, id="good"))
        r.finish()
        assert r.said("good") == continuation(range(9), 2, 257)
        assert r.stats("good").cached_tokens == 0

    def test_a_stop_condition_that_raises_ends_its_request_only(self, rig: Make) -> None:
        class Broken:
            def push(self, token: int) -> bool:
                raise KeyError("piece")

        r = rig()
        r.add(make_request([1], 3, id="bad", stop=Broken()), make_request([2], 3, id="good"))
        r.finish()
        assert (r.stats("bad").outcome, r.last("bad").error) == (Outcome.ERROR, "KeyError: 'piece'")
        assert r.said("good") == continuation([2], 3, 257)

    def test_a_prefix_is_kept_when_the_fault_is_not_the_models(self, rig: Make) -> None:
        class Broken(Known):
            def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
                return bits_of([1])

            def push(self, token: int) -> bool:
                raise ConstraintFailed("no such word")

        class Stop:
            def push(self, token: int) -> bool:
                raise KeyError("piece")

        r = rig()
        r.add(make_request(range(9), 1, id="before"))
        r.finish()
        r.add(
            make_request(range(9), 3, id="form", constraint=Broken()), make_request(range(9), 3, id="stop", stop=Stop())
        )
        r.finish()
        r.add(make_request(range(9), 1, id="after"))
        r.finish()
        assert [r.stats(id).outcome for id in ("form", "stop")] == [Outcome.REJECTED, Outcome.ERROR]
        assert r.stats("after").cached_tokens == 8


class TestNotANumber:
    def test_the_row_ends_and_the_others_go_on(self, rig: Make) -> None:
        r = rig(mixtures=MIXTURES, nan=nan("b", outputs=1))
        for n, id in enumerate("abc"):
            r.add(make_request([n], 4, id=id))
        r.finish()
        assert (r.stats("b").outcome, r.last("b").error) == (Outcome.ERROR, "nan")
        assert r.said("b") == continuation([1], 1, 257)
        assert r.said("a") == continuation([0], 4, 257) and r.said("c") == continuation([2], 4, 257)
        assert r.stats("b").routed_tokens == 2, "its tokens were computed and routed, whatever came of it"

    def test_its_blocks_are_never_found(self, rig: Make) -> None:
        r = rig(nan=nan("bad"), max_batch_tokens=5)
        r.add(make_request(range(14), 4, id="bad"))
        r.step()
        assert r.seen.steps[-1].groups == (GroupUse(64, 0, 0),), "the first chunk failed"
        r = rig(nan=lambda row: row.request.id == "bad" and bool(row.wanted), max_batch_tokens=5)
        r.add(make_request(range(14), 4, id="bad"))
        r.finish()
        assert r.seen.steps[1].groups[0].used == 3
        assert r.seen.steps[-1].groups == (GroupUse(64, 0, 0),), "chunks that looked good are not trusted either"
        r.add(make_request(range(14), 4, id="next"))
        r.finish()
        assert r.stats("next").cached_tokens == 0
        assert r.said("next") == continuation(range(14), 4, 257)

    def test_a_poisoned_prefix_is_dropped_by_the_first_who_stumbles(self, rig: Make) -> None:
        bad = {"on": False}
        r = rig(nan=lambda row: bad["on"])
        r.add(make_request(range(9), 1, id="a"))
        r.finish()
        bad["on"] = True
        r.add(make_request(range(9), 1, id="b"))
        r.finish()
        bad["on"] = False
        r.add(make_request(range(9), 1, id="c"))
        r.finish()
        assert [r.stats(id).cached_tokens for id in "abc"] == [0, 8, 0]
        assert r.said("c") == continuation(range(9), 1, 257)


class TestObservers:
    def test_an_observer_that_raises_is_counted_and_harmless(self, rig: Make) -> None:
        class Broken(Recorder):
            def received(self, model: str, prompt_tokens: int) -> None:
                raise ValueError

            def stepped(self, stats: Any) -> None:
                raise ValueError

            def finished(self, stats: Any) -> None:
                raise ValueError

        r = rig(observer=Broken())
        r.add(make_request([1], 3, id="a"))
        r.finish()
        assert r.said("a") == continuation([1], 3, 257)
        assert r.engine.observer_failures == 1 + 3 + 1

    def test_statistics_that_raise_are_left_out(self, rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("server.engine.engine.layer_routing", broken)
        monkeypatch.setattr("server.engine.ledger.expert_loads", broken)
        r = rig(mixtures=MIXTURES)
        r.add(make_request([1], 3, id="a"))
        r.finish()
        assert r.said("a") == continuation([1], 3, 257)
        assert r.stats("a").routing == () and r.engine.observer_failures == 4

    def test_routes_that_cannot_be_kept_end_their_request_and_no_other(
        self, rig: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = RouteLog.write

        def full(log: RouteLog, start: int, *columns: Any) -> None:
            if start == 6:  # only "b" comes so far
                raise MemoryError
            write(log, start, *columns)

        monkeypatch.setattr(RouteLog, "write", full)
        r = rig(mixtures=MIXTURES)
        r.add(make_request([1], 3, id="a"))
        r.add(make_request(range(5), 4, id="b"))
        r.finish()
        r.engine.check()
        assert r.said("a") == continuation([1], 3, 257) and r.stats("a").outcome is Outcome.LENGTH
        assert (r.stats("b").outcome, r.last("b").error) == (Outcome.ERROR, "its routes could not be kept")


class TestProgress:
    def test_prompts_are_cut_by_the_best_pace_so_far(self) -> None:
        """To what a step does in the given time, but not below what costs no less."""
        progress = Progress("m", 512, chunk_seconds=0.02)
        assert progress.chunk == 512
        progress.took(1, 0.1)
        assert progress.chunk == LEAST_CHUNK
        progress.took(100, 0.01)
        assert progress.chunk == 200
        progress.took(10, 0.01)
        assert progress.chunk == 200
        progress.took(512, 0.001)
        assert progress.chunk == 512
        assert Progress("m", 512, chunk_seconds=float("inf")).chunk == 512
        unbound = Progress("m", 512)
        unbound.took(1, 0.1)
        assert unbound.chunk == 512

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_step_that_fails_at_once_is_no_measure(self, rig: Make, alone: bool) -> None:
        """Nor are the tokens of whoever failed in it, where others did not."""
        r = rig(step_seconds=1.0, fault=poison("bad"))
        r.add(make_request(range(10), 1, id="good"))
        r.finish()
        assert r.engine.longest_step == 4.0 * 512 / 10
        r.add(make_request(range(200, 600), 1, id="bad"))
        if not alone:
            r.add(make_request([1, 2], 1, id="other"))
        r.finish()
        assert r.stats("bad").outcome is Outcome.ERROR
        assert r.engine.longest_step == 4.0 * 512 / 10

    def test_a_scheduler_that_gives_nothing_is_a_fault_and_no_spin(
        self, rig: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        r = rig()
        r.add(make_request([1], 3))
        monkeypatch.setattr(r.engine._scheduler, "schedule", lambda chunk: [])
        r.engine.step()
        with pytest.raises(NoProgress, match="0 running and 1 waiting"):
            r.engine.step()

    def test_allocations_that_always_fail_are_a_fault_and_no_spin(
        self, rig: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing() -> int:
            raise OutOfBlocks

        r = rig()
        monkeypatch.setattr(r.engine._cache._groups[0].pool, "take", failing)
        r.add(make_request([1], 3))
        r.step()
        with pytest.raises(NoProgress):
            r.engine.step()

    @pytest.mark.parametrize("speculate", [0, 3])
    @pytest.mark.parametrize("nth", range(1, 9))
    def test_an_allocation_that_fails_once_costs_a_step_at_most(
        self, rig: Make, monkeypatch: pytest.MonkeyPatch, nth: int, speculate: int
    ) -> None:
        r = rig(groups=(CacheGroup(Full(), 20, 1),), speculate=speculate, drafter=Right)
        pool = r.engine._cache._groups[0].pool
        take, calls = pool.take, iter(range(1, 1000))

        def failing() -> int:
            if next(calls) == nth:
                raise OutOfBlocks
            return take()

        monkeypatch.setattr(pool, "take", failing)
        r.add(make_request(range(6), 6, id="a"), make_request(range(3), 6, id="b"))
        r.finish()
        assert r.said("a") == continuation(range(6), 6, 257)
        assert r.said("b") == continuation(range(3), 6, 257)
        assert r.seen.steps[-1].groups[0].used == 0, "a block is lost"
        assert bool(r.stats("a").accepted_tokens) == bool(speculate)
