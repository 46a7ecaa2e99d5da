"""What computing costs: by hand for one request, and of all requests together what the steps did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import cycle

import pytest

from model import presets
from model.config import Full, Window
from model.costs import Costs
from model.operations import Operations
from model.roofline import Machine
from server.engine.request import Request
from server.engine.stats import Compute
from server.engine.step import CacheGroup, MixtureShape
from tests.fakes import make_request, next_token
from tests.server.engine.conftest import Rig
from tests.server.kit import architecture

Make = Callable[..., Rig]
MIXTURES = (MixtureShape(1, 4, 2), MixtureShape(3, 4, 2))


def added(bills: list[Compute]) -> dict[str, object]:
    """Every number of the bills, summed; parameters are nothing that adds up."""
    names = [field.name for field in fields(Compute) if field.name not in ("operations", "parameters")]
    total: dict[str, object] = {name: sum(getattr(bill, name) for bill in bills) for name in names}
    return total | {"operations": sum((bill.operations for bill in bills), Operations())}


def assert_reconciled(r: Rig) -> None:
    """What requests were charged is what steps did: counts to the last one, shares but for rounding."""
    steps = added([step.compute for step in r.seen.steps])
    requests = added([stats.compute for stats in r.seen.requests])
    for name in ("weight_bytes", "passes", "seconds", "memory_bound_seconds", "compute_bound_seconds"):
        assert requests.pop(name) == pytest.approx(steps.pop(name), rel=1e-9), name
    assert requests == steps


def test_one_request_by_hand(rig: Make) -> None:
    """A prompt of 3 and one output fed back: positions 0 1 2, then 3. 256 bytes of cache a token."""
    r = rig(step_seconds=0.5, mixtures=(MixtureShape(0, 4, 1),))
    r.add(make_request([3, 4, 5], 2, id="a"))
    r.finish()
    bill = r.stats("a").compute
    assert bill.operations == Operations(
        projections=4 * 10,
        scores=2 * (1 + 2 + 3 + 4),
        feed_forward=4 * 20,
        experts=4 * 30,
        router=4 * 4,
        head=2 * 7,  # of the last token of the prompt, and of the output
    )
    # Tokens 3 4 5 at positions 0 1 2 go to experts 3 1 3; the output, (3 + 4 + 5 + 2) = 14 at 3, to expert 1.
    assert bill.weight_bytes == (1000 + 3 * 8 + 2 * 100) + (1000 + 8 + 100)
    assert (bill.cache_read_bytes, bill.cache_written_bytes) == (3 * 256, 4 * 256)
    assert (bill.tokens, bill.passes, bill.seconds) == (4, 2.0, 1.0)
    assert bill.parameters == 5000 - 2 * 50, "two of four experts were never asked"


def test_a_pass_is_shared_by_tokens(rig: Make) -> None:
    r = rig(step_seconds=1.0, max_batch_tokens=8)
    r.add(make_request([1], 2, id="one"), make_request(range(6), 1, id="six"))
    r.finish()
    assert r.rows() == [[("one", 0, 1), ("six", 0, 6)], [("one", 1, 1)]]
    one, six = r.stats("one").compute, r.stats("six").compute
    assert (six.passes, six.seconds) == pytest.approx((6 / 7, 6 / 7))
    assert (one.passes, one.seconds) == pytest.approx((1 / 7 + 1, 1 / 7 + 1))
    assert six.weight_bytes == pytest.approx((1000 + 7 * 8) * 6 / 7)
    assert r.stats("one").latency.forward == 2.0
    assert r.stats("one").latency.delayed == pytest.approx(6 / 7)
    assert r.stats("six").latency.delayed == 0.0, "a prompt does not wait for itself"


def test_the_least_that_a_pass_could_have_taken_is_shared_by_tokens(rig: Make) -> None:
    """At 1,000 bytes and 50 operations a second: 7 tokens move 1,056 and 7 * 256 bytes and take 268 operations, which
    is longer; one token moves 1,008 and 2 * 256 bytes, which takes longer than its 41 operations."""
    r = rig(step_seconds=1.0, max_batch_tokens=8, machine=Machine(memory=1.0, bandwidth=1000.0, flops=50.0))
    r.add(make_request([1], 2, id="one"), make_request(range(6), 1, id="six"))
    r.finish()
    bounds = [(step.compute.memory_bound_seconds, step.compute.compute_bound_seconds) for step in r.seen.steps]
    assert bounds == [(0.0, 268 / 50), (1520 / 1000, 0.0)]
    one, six = r.stats("one").compute, r.stats("six").compute
    assert (six.memory_bound_seconds, six.compute_bound_seconds) == pytest.approx((0.0, 268 / 50 * 6 / 7))
    assert (one.memory_bound_seconds, one.compute_bound_seconds) == pytest.approx((1.52, 268 / 50 / 7))


def test_a_source_that_is_read_is_tokens_of_the_pass(rig: Make) -> None:
    """It holds up whoever waits for a token, and its request bears what it took."""
    costs = Costs.of(presets.scaled(presets.load("transformer"), "tiny"), 4, 4)
    r = rig(step_seconds=1.0, memory=CacheGroup(Full(), 9, 64), costs=costs)
    r.add(make_request([1], 4, id="one", source=(5,)))
    r.step(2)
    r.add(make_request([1], 2, id="other", source=tuple(range(8))))
    r.finish()
    assert r.rows() == [
        [("one", 0, 1)],
        [("one", 1, 1)],
        [("one", 2, 1), ("other", 0, 1)],
        [("one", 3, 1), ("other", 1, 1)],
    ]
    one, other = r.stats("one"), r.stats("other")
    assert (one.latency.delayed, other.latency.delayed) == (pytest.approx(9 / 10), 0.0)
    assert (one.compute.seconds, other.compute.seconds) == (
        pytest.approx(2 + 1 / 10 + 1 / 2),
        pytest.approx(9 / 10 + 1 / 2),
    )
    assert one.compute.passes == one.compute.seconds
    assert_reconciled(r)


def test_what_requests_are_charged_is_what_steps_did(rig: Make) -> None:
    """Chunks, batches, windows, found prefixes, preemption, failures and cancellation."""
    groups = (CacheGroup(Full(), 14, 128), CacheGroup(Window(6), 14, 64))
    costs = Costs.of(architecture(), 4, 4)
    bad = cycle([False] * 40 + [True])
    r = rig(
        groups=groups,
        mixtures=MIXTURES,
        costs=costs,
        machine=Machine(memory=1.0, bandwidth=1e6, flops=2e6),
        max_batch_tokens=7,
        step_seconds=0.25,
        nan=lambda row: next(bad),
    )
    for n in range(8):
        r.add(make_request(range(n % 3, 9 + n), 6, id=str(n)))
    r.step(9)
    r.engine.cancel("7")
    r.finish()
    for n in range(3):
        r.add(make_request(range(n, 9 + n), 4, id=f"again {n}"))
    r.finish()
    outcomes = {str(stats.outcome) for stats in r.seen.requests}
    assert outcomes == {"length", "cancelled", "error"} and len(r.seen.requests) == 11
    assert any(stats.preemptions for stats in r.seen.requests)
    assert any(stats.cached_tokens for stats in r.seen.requests)
    assert_reconciled(r)
    tokens = sum(step.prefill_tokens + step.decode_tokens for step in r.seen.steps)
    assert added([step.compute for step in r.seen.steps])["tokens"] == tokens
    assert sum(step.compute.passes for step in r.seen.steps) == len(r.runner.steps)
    assert any(step.compute.memory_bound_seconds for step in r.seen.steps)
    assert any(step.compute.compute_bound_seconds for step in r.seen.steps)


class HalfRight:
    """Guesses one token right and then always the same."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def draft(self, most: int) -> list[int]:
        return [next_token(self._request.tokens(0, self._request.num_tokens), 10), 3][:most]


def test_guesses_are_charged_to_who_made_them(rig: Make) -> None:
    """Wrong drafts went through the model, and are tokens of nobody's answer."""
    r = rig(vocab=10, mixtures=MIXTURES, speculate=4, drafter=HalfRight)
    r.add(make_request([1, 2, 3, 1], 24, id="a"), make_request([5, 6, 5], 24, id="b"))
    r.finish()
    assert_reconciled(r)
    drafted = sum(step.drafted_tokens - step.accepted_tokens for step in r.seen.steps)
    known = sum(step.prefill_tokens + step.decode_tokens for step in r.seen.steps)
    assert drafted > 0 and sum(step.compute.tokens for step in r.seen.steps) == known + drafted
    for step in r.seen.steps:
        tokens = step.prefill_tokens + step.decode_tokens
        assert [sum(layer) for layer in step.expert_tokens] == [2 * tokens] * 2
        assert all(0 <= margin <= tokens * 0.5 for margin in step.margins)


def test_experts_of_requests_are_those_of_steps(rig: Make) -> None:
    """Nothing is found in a cache or computed twice here, so that every count appears on both sides once."""
    r = rig(mixtures=MIXTURES, prefix_cache=False)
    r.add(*(make_request(range(n, n + 5), 7, id=str(n)) for n in range(5)))
    r.finish()
    for layer in range(2):
        told = zip(*(stats.routing[layer].expert_tokens for stats in r.seen.requests), strict=True)
        seen = sum(step.expert_tokens[layer, : MIXTURES[layer].experts] for step in r.seen.steps)
        assert [sum(tokens) for tokens in told] == list(seen)
    margins = sum(stats.routing[1].margin * stats.routed_tokens for stats in r.seen.requests)
    assert margins == pytest.approx(sum(step.margins[1] for step in r.seen.steps))


def test_distinct_experts_of_a_step(rig: Make) -> None:
    r = rig(mixtures=(MixtureShape(0, 4, 1), MixtureShape(1, 4, 2)))
    r.add(make_request([0, 3], 1, id="a"))  # at positions 0 and 1: experts 0 and 0, then 1 2 and 1 2
    r.finish()
    [step] = [step for step in r.seen.steps if step.rows]
    assert step.distinct_experts.tolist() == [1, 2]


def test_cache_is_held_for_a_time(rig: Make) -> None:
    """Blocks of 4 tokens and 1024 bytes, a second a step: one block for two seconds, then two for one."""
    r = rig(step_seconds=1.0)
    r.add(make_request([1, 2, 3], 3, id="a"))
    r.finish()
    assert r.stats("a").cache_byte_seconds == 1024 * 2 + 2048 * 1


def test_nothing_is_held_while_preempted(rig: Make) -> None:
    r = rig(step_seconds=1.0, groups=(CacheGroup(Full(), 5, 1000),), prefix_cache=False)
    r.add(make_request([1] * 4, 9, id="old"), make_request([2] * 4, 9, id="young"))
    r.finish()
    old, young = r.stats("old"), r.stats("young")
    assert old.preemptions == 0 and young.preemptions == 1
    assert old.latency.preempted == 0.0 and young.latency.preempted > 0.0
    longest = max(young.latency.inter_token.maximum, young.latency.first_token)
    assert young.latency.preempted <= longest
    most = 4000 * (r.clock.now - 0.0)
    assert old.cache_byte_seconds + young.cache_byte_seconds <= most
    # 4 + 9 - 1 tokens in blocks of 4: each holds 2 blocks for 4 steps and 3 for the next 4, and young began anew.
    assert old.cache_byte_seconds == 1000 * (1 + 2 * 4 + 3 * 4)


def test_who_was_let_in_and_had_no_seat_has_lost_no_time(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    r, answers = rig(step_seconds=1.0), iter([False])
    extend = r.engine._cache.extend
    monkeypatch.setattr(r.engine._cache, "extend", lambda *asked: next(answers, True) and extend(*asked))
    r.add(make_request([1, 2], 2, id="a"))
    r.step()
    r.clock.now = 5.0
    r.finish()
    stats = r.stats("a")
    assert (stats.preemptions, stats.latency.queued, stats.latency.preempted) == (1, 5.0, 0.0)


def test_a_request_that_never_ran_cost_nothing(rig: Make) -> None:
    r = rig(mixtures=MIXTURES, max_rows=1)
    r.add(make_request([1], 9, id="a"), make_request([1], 9, id="queued"))
    r.step()
    r.engine.cancel("queued")
    r.finish()
    stats = r.stats("queued")
    assert stats.compute == Compute(Operations(), 0.0, 0, 0, 0, 0.0, 0.0, 0) and stats.cache_byte_seconds == 0.0
