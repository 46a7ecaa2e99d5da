"""What comes out of the engine, worked out by hand: tokens, ends, times, facts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from model.config import Full, Window
from server.engine.pace import SLACK
from server.engine.request import Outcome, TokenLogprobs
from server.engine.stats import GroupUse, Latency, Spread
from server.engine.step import CacheGroup, MixtureShape
from tests.fakes import continuation, make_request
from tests.server.engine.conftest import Rig

Make = Callable[..., Rig]
MIXTURES = (MixtureShape(1, 4, 2), MixtureShape(3, 3, 1))


class TestTokens:
    def test_a_request_by_hand(self, rig: Make) -> None:
        r = rig(vocab=10)
        r.add(make_request([3, 4], 3, id="a"))
        r.finish()
        # (3 + 4) + 1 = 8; (3 + 4 + 8) + 2 = 17; (3 + 4 + 8 + 7) + 3 = 25
        assert r.said("a") == [8, 7, 5]
        assert r.rows() == [[("a", 0, 2)], [("a", 2, 1)], [("a", 3, 1)]]
        assert r.stats("a").outcome is Outcome.LENGTH

    def test_every_token_is_a_delta_and_only_the_last_has_stats(self, rig: Make) -> None:
        r = rig()
        r.add(make_request([1], 3, id="a"))
        r.finish()
        assert [len(delta.tokens) for delta in r.deltas] == [1, 1, 1]
        assert [delta.stats is not None for delta in r.deltas] == [False, False, True]

    def test_logprobs_come_with_the_tokens_of_those_who_asked(self, rig: Make) -> None:
        r = rig(vocab=10)
        r.add(make_request([3, 4], 1, id="a", logprobs=1), make_request([3, 4], 1, id="b"))
        r.finish()
        assert r.last("a").logprobs == (TokenLogprobs(-1.0, ((8, -1.0),)),)
        assert r.last("b").logprobs == (None,)

    def test_a_stop_id_ends_and_is_told(self, rig: Make) -> None:
        r = rig(vocab=10)
        r.add(make_request([3, 4], 9, id="a", stop_ids=frozenset({7})))
        r.finish()
        assert r.said("a") == [8, 7]
        assert r.stats("a").outcome is Outcome.STOP

    @pytest.mark.parametrize(("minimum", "said"), [(0, 1), (1, 9), (8, 9)])
    def test_end_tokens_do_not_count_before_min_tokens(self, rig: Make, minimum: int, said: int) -> None:
        r = rig(vocab=10)
        request = make_request([3, 4], 9, id="a", stop_ids=frozenset({8}), min_tokens=minimum)
        r.add(request)
        r.finish()
        whole = continuation([3, 4], 9, 10)
        later = [n + 1 for n, token in enumerate(whole) if token == 8 and n + 1 > minimum]
        assert len(r.said("a")) == (later[0] if later else 9) == said
        assert r.said("a") == whole[:said]

    def test_a_stop_condition_sees_each_token_once(self, rig: Make) -> None:
        class Third:
            def __init__(self) -> None:
                self.tokens: list[int] = []

            def push(self, token: int) -> bool:
                self.tokens.append(token)
                return len(self.tokens) == 3

        r, stop = rig(), Third()
        r.add(make_request([5], 9, id="a", stop=stop))
        r.finish()
        assert r.said("a") == stop.tokens == continuation([5], 3, 257)
        assert r.stats("a").outcome is Outcome.STOP

    def test_no_torch_is_needed(self) -> None:
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "import server.engine.engine, tests.fakes\n"
            "assert 'asyncio' not in sys.modules, 'only the loop knows asyncio'\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestFacts:
    def test_latency_by_hand(self, rig: Make) -> None:
        r = rig(step_seconds=1.0, max_rows=1)
        r.add(make_request([1, 1], 2, id="a"), make_request([1, 1], 3, id="b", arrived=0.5))
        r.clock.now = 10.0
        r.step(4)
        r.clock.now += 4
        r.finish()
        assert r.stats("a").latency == Latency(10.0, 1.0, 11.0, 1.0, Spread(1, 1.0, 1.0, 1.0, 1.0, 1.0), 12.0, 2.0)
        # b: begins at 12, first token at 13, then 14, then 19.
        gaps = Spread(2, 3.0, 3.0, 4.6, 4.96, 5.0)
        assert r.stats("b").latency == Latency(11.5, 1.0, 12.5, 6.0, gaps, 18.5, 3.0)

    def test_a_request_cut_short_has_no_phases_it_did_not_reach(self, rig: Make) -> None:
        r = rig(step_seconds=1.0, max_rows=1, max_batch_tokens=4)
        r.add(make_request([1] * 9, 2, id="prefill"), make_request([1], 2, id="queued"))
        r.step()
        r.engine.cancel("queued")
        r.engine.cancel("prefill")
        r.finish()
        none = Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        assert r.stats("queued").latency == Latency(1.0, 0.0, 0.0, 0.0, none, 1.0)
        assert r.stats("prefill").latency == Latency(0.0, 1.0, 0.0, 0.0, none, 1.0, 1.0)
        assert r.stats("queued").steps == 0 and r.stats("queued").mean_batch == 0.0

    def test_steps_by_hand(self, rig: Make) -> None:
        r = rig(step_seconds=0.5, max_batch_tokens=4)
        r.add(make_request([1, 2, 3], 2, id="a"), make_request([1, 2, 3], 1, id="b", arrived=-1.0))
        r.finish()
        first, second, third = r.seen.steps[0], r.seen.steps[1], r.seen.steps[-1]
        assert r.rows() == [[("a", 0, 3), ("b", 0, 1)], [("a", 3, 1), ("b", 1, 2)]]
        assert second is third
        assert (first.model, first.number, first.rows, first.seconds, first.forward_seconds) == ("fake", 1, 2, 0.5, 0.5)
        assert (first.prefill_tokens, first.decode_tokens) == (4, 0)
        assert (first.running, first.waiting) == (2, 0)
        assert (first.first_tokens, first.gaps) == ((0.5,), ())
        assert first.groups == (GroupUse(64, 2, 0),)
        assert (second.prefill_tokens, second.decode_tokens) == (2, 1)
        assert (second.first_tokens, second.gaps) == ((2.0,), (0.5,))
        assert (second.running, second.waiting) == (0, 0), "what is left after the step"
        assert second.groups == (GroupUse(64, 0, 1),)

    def test_batch_and_cache_of_a_request(self, rig: Make) -> None:
        r = rig(max_batch_tokens=8)
        r.add(make_request(range(6), 3, id="a"), make_request(range(10, 12), 1, id="b"))
        r.finish()
        assert (r.stats("a").steps, r.stats("a").mean_batch) == (3, 4 / 3)
        assert r.stats("b").mean_batch == 2.0
        assert r.stats("a").cache_bytes == 2048  # eight tokens computed, the ninth was only drawn
        assert r.stats("b").cache_bytes == 1024

    def test_peak_bytes_of_a_window_are_those_of_the_window(self, rig: Make) -> None:
        groups = (CacheGroup(Window(4), 33, 10), CacheGroup(Full(), 33, 100))
        r = rig(groups=groups, max_batch_tokens=4)
        r.add(make_request(range(20), 1, id="a"))
        r.finish()
        assert r.stats("a").cache_bytes == 2 * 10 + 5 * 100

    def test_a_cached_prefix_is_counted_and_not_computed(self, rig: Make) -> None:
        r = rig()
        r.add(make_request(range(10), 1, id="a"))
        r.finish()
        r.add(make_request(range(10), 2, id="b"))
        r.finish()
        assert list(r.rows())[1] == [("b", 8, 2)]
        assert r.stats("b").cached_tokens == 8
        assert r.said("b") == continuation(range(10), 2, 257)
        r.engine.reset_prefix_cache()
        r.add(make_request(range(10), 1, id="c"))
        r.finish()
        assert r.stats("c").cached_tokens == 0

    def test_outputs_are_found_as_prefixes_too(self, rig: Make) -> None:
        r = rig()
        r.add(make_request(range(6), 7, id="a"))
        r.finish()
        r.add(make_request([*range(6), *r.said("a"), 9], 1, id="b"))
        r.finish()
        assert r.stats("b").cached_tokens == 12


class TestEnds:
    @pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.DEADLINE])
    def test_cancel_in_the_queue_in_prefill_and_in_decode(self, rig: Make, outcome: Outcome) -> None:
        r = rig(max_rows=2, max_batch_tokens=4, prefix_cache=False)
        for id, prompt in (("decode", 1), ("prefill", 30), ("queued", 2)):
            r.add(make_request(range(prompt), 50, id=id))
        r.step(2)
        assert (r.engine.num_running, r.engine.num_waiting) == (2, 1)
        for id in ("decode", "prefill", "queued"):
            r.engine.cancel(id, outcome)
        assert (r.engine.num_running, r.engine.num_waiting) == (0, 0)
        before = len(r.runner.steps)
        r.step()
        assert len(r.runner.steps) == before, "nothing is computed for those who left"
        assert not r.engine.has_work
        assert [r.stats(id).outcome for id in ("decode", "prefill", "queued")] == [outcome] * 3
        assert len(r.said("decode")) == r.stats("decode").completion_tokens == 2
        assert r.seen.steps[-1].groups == (GroupUse(64, 0, 0),)
        assert (r.seen.steps[-1].rows, r.seen.steps[-1].running) == (0, 0)

    def test_cancel_while_preempted(self, rig: Make) -> None:
        r = rig(groups=(CacheGroup(Full(), 5, 1),), mixtures=MIXTURES)
        r.add(make_request([1, 2, 3], 12, id="old"), make_request([4, 5, 6], 12, id="young"))
        r.step()
        while r.engine.num_waiting == 0:
            r.step()
        said = r.said("young")
        r.engine.cancel("young")
        r.finish()
        stats = r.stats("young")
        assert stats.completion_tokens == len(said) > 0 and stats.preemptions == 1
        assert stats.routed_tokens == 3 + len(said) - 1, "what was computed was computed"
        assert r.said("old") == continuation([1, 2, 3], 12, 257)

    def test_cancelling_somebody_unknown_or_twice_is_nothing(self, rig: Make) -> None:
        r = rig()
        r.add(make_request([1], 5, id="a"))
        r.engine.cancel("b")
        r.engine.cancel("a")
        r.engine.cancel("a", Outcome.DEADLINE)
        r.finish()
        assert [stats.outcome for stats in r.seen.requests] == [Outcome.CANCELLED]

    def test_deadlines_are_kept_by_the_engine(self, rig: Make) -> None:
        r = rig(step_seconds=1.0)
        r.add(make_request([1], 50, id="late", deadline=2.5), make_request([2], 4, id="other"))
        r.add(make_request([3], 4, id="past", deadline=0.0))
        r.finish()
        assert r.stats("late").outcome is Outcome.DEADLINE and len(r.said("late")) == 3
        assert r.stats("past").outcome is Outcome.DEADLINE and r.stats("past").steps == 0
        assert r.said("other") == continuation([2], 4, 257)

    @pytest.mark.parametrize(
        ("prompt", "max_tokens", "why"), [(30, 3, "33 tokens"), (0, 3, "0 prompt"), (3, -1, "max_tokens=-1")]
    )
    def test_what_can_never_be_served_ends_at_once(self, rig: Make, prompt: int, max_tokens: int, why: str) -> None:
        r = rig(groups=(CacheGroup(Full(), 9, 1),))
        assert r.engine.capacity_tokens == 32
        r.add(make_request(range(prompt), max_tokens, id="a"), make_request(range(29), 3, id="exact"))
        r.finish()
        assert r.stats("a").outcome is Outcome.ERROR and why in r.last("a").error
        assert r.stats("exact").outcome is Outcome.LENGTH

    def test_an_id_is_taken_once(self, rig: Make) -> None:
        r = rig()
        r.add(make_request([1], 1, id="a"))
        with pytest.raises(ValueError, match="'a' is already here"):
            r.add(make_request([1], 1, id="a"))

    def test_received_and_ended_are_the_same_number(self, rig: Make) -> None:
        r = rig(groups=(CacheGroup(Full(), 9, 1),), nan=lambda row: row.request.id == "nan" and bool(row.wanted))
        r.add(make_request([1], 3, id="length"), make_request([1], 900, id="large"), make_request([1], 9, id="nan"))
        r.add(make_request([1], 9, id="gone"), make_request([1], 9, id="late", deadline=-1.0))
        r.engine.cancel("gone")
        r.finish()
        assert len(r.seen.arrivals) == len(r.seen.requests) == 5
        assert sorted(stats.outcome for stats in r.seen.requests) == [
            "cancelled",
            "deadline",
            "error",
            "error",
            "length",
        ]


class TestSources:
    """Models with an encoder: a request's source has blocks of its own, and is read once."""

    MEMORY = CacheGroup(Full(), 6, 100)  # five blocks of four

    def test_a_source_is_read_once_and_its_blocks_come_back(self, rig: Make) -> None:
        r = rig(memory=self.MEMORY, max_batch_tokens=4)
        r.add(make_request(range(6), 3, id="a", source=tuple(range(9))))
        r.finish()
        rows = [row for step in r.runner.steps for row in step.rows]
        assert [row.encodes for row in rows] == [True, False, False, False]
        assert {row.source for row in rows} == {(1, 2, 3)}
        assert r.seen.steps[0].groups == (GroupUse(64, 1, 0), GroupUse(5, 3, 0))
        assert r.seen.steps[-1].groups == (GroupUse(64, 0, 2), GroupUse(5, 0, 0))
        assert (r.stats("a").prompt_tokens, r.stats("a").cache_bytes) == (15, 2 * 1024 + 3 * 100)

    def test_who_finds_no_room_for_its_source_waits(self, rig: Make) -> None:
        r = rig(memory=self.MEMORY)
        for id in "ab":
            r.add(make_request([1], 3, id=id, source=tuple(range(12))))
        r.step()
        assert (r.engine.num_running, r.engine.num_waiting) == (1, 1)
        r.finish()
        assert r.said("a") == r.said("b") == continuation([1], 3, 257)

    def test_a_source_is_read_again_after_a_preemption(self, rig: Make) -> None:
        r = rig(memory=self.MEMORY, groups=(CacheGroup(Full(), 5, 1),))
        r.add(make_request([1, 2, 3], 12, id="old", source=(1,)), make_request([4, 5, 6], 12, id="young", source=(2,)))
        r.finish()
        rows = [row for step in r.runner.steps for row in step.rows if row.request.id == "young"]
        assert r.stats("young").preemptions > 0
        assert sum(row.encodes for row in rows) == 1 + r.stats("young").preemptions

    def test_a_source_counts_where_a_step_is_judged_by_its_tokens(self, rig: Make) -> None:
        r = rig(memory=self.MEMORY, max_batch_tokens=8, step_seconds=1.0)
        r.add(make_request([1], 1, id="a", source=tuple(range(9))))
        r.finish()
        longest = SLACK * (8 + 9) * 1.0 / (9 + 1)
        assert r.engine.longest_step == pytest.approx(longest), "one goes beside as many tokens as there may be"

    def test_prefixes_are_shared_under_the_same_source_only(self, rig: Make) -> None:
        r = rig(memory=self.MEMORY)
        for id, source in (("a", (1,)), ("b", (2,)), ("c", (1,))):
            r.add(make_request(range(9), 1, id=id, source=source))
            r.finish()
        assert [r.stats(id).cached_tokens for id in "abc"] == [0, 0, 8]

    @pytest.mark.parametrize(("memory", "room"), [(None, 0), (MEMORY, 20)], ids=["no encoder", "encoder"])
    def test_a_source_too_long_is_refused(self, rig: Make, memory: CacheGroup | None, room: int) -> None:
        r = rig(memory=memory)
        assert r.engine.source_tokens == room
        r.add(make_request([1], 1, id="a", source=(0,) * (room + 1)), make_request([1], 1, id="b", source=(0,) * room))
        r.finish()
        assert r.stats("a").outcome is Outcome.ERROR and f"room for {room}" in r.last("a").error
        assert r.stats("b").outcome is Outcome.LENGTH
