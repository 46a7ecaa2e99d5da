"""Whose turn it is, by arrival and priority."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import Full
from server.engine.account import Account
from server.engine.entry import PRIORITY_SECONDS, Entry, in_order
from server.engine.holding import Holding
from server.engine.step import CacheGroup
from tests.fakes import make_request
from tests.server.engine.conftest import Rig

Make = Callable[..., Rig]


def first_steps(r: Rig) -> list[str]:
    """Requests in the order in which they were first computed."""
    return list(dict.fromkeys(id for rows in r.rows() for id, *_ in rows))


def test_the_lower_number_goes_first_and_equals_in_order(rig: Make) -> None:
    r = rig(max_rows=1)
    for id, priority in (("a", 0), ("b", 5), ("c", -5), ("d", 0), ("e", -5)):
        r.add(make_request([1, 2], 2, id=id, priority=priority))
    r.finish()
    assert first_steps(r) == ["c", "e", "a", "d", "b"]


def test_nobody_who_runs_makes_way_for_a_better_one_that_fits_later(rig: Make) -> None:
    r = rig(max_rows=1)
    r.add(make_request([1, 2], 4, id="low", priority=100))
    r.step()
    r.add(make_request([1, 2], 1, id="high", priority=-100))
    r.finish()
    assert r.stats("low").preemptions == 0
    assert [delta.request.id for delta in r.deltas if delta.stats is not None] == ["low", "high"]


def test_blocks_are_taken_from_the_one_whose_turn_is_last(rig: Make) -> None:
    r = rig(groups=(CacheGroup(Full(), 9, 1),), prefix_cache=False)  # 32 tokens
    r.add(make_request(range(8), 20, id="low", priority=10))
    r.step()
    r.add(make_request(range(8), 20, id="high", priority=-10))
    r.finish()
    assert r.stats("low").preemptions == 1
    assert r.stats("high").preemptions == 0
    assert len(r.said("low")) == len(r.said("high")) == 20


def test_low_priority_is_served_however_many_of_high_come(rig: Make) -> None:
    r = rig(max_rows=1, step_seconds=1.0)
    r.add(make_request([1], 1, id="low", priority=100))
    number = 0
    while not any(delta.request.id == "low" for delta in r.deltas):
        r.add(make_request([1], 1, id=f"high {number}", priority=-100))
        r.step()
        number += 1
        assert number < 30, "it starves"
    assert 20 <= r.clock.now <= 22, "two hundred steps of priority, a tenth of a second each"


def test_priority_moves_nobody_of_another_tenant(rig: Make) -> None:
    for priority in (0, -100):
        r = rig(groups=(CacheGroup(Full(), 9, 1),), prefix_cache=False)  # 32 tokens
        r.add(make_request(range(8), 20, id="first", cache_salt=b"one"))
        r.step()
        r.add(make_request(range(8), 20, id="second", cache_salt=b"other", priority=priority))
        r.finish()
        assert (r.stats("first").preemptions, r.stats("second").preemptions) == (0, 1)


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(-3, 3)), max_size=12),
    st.sampled_from([0.0, PRIORITY_SECONDS]),
    st.randoms(),
)
def test_the_places_stay_and_within_a_tenant_the_order_is_that_of_turns(
    came: list[tuple[bytes, int]], apart: float, chance: Random
) -> None:
    entries = [
        Entry(
            make_request([1], 1, cache_salt=tenant, priority=priority),
            Holding([[]], [0]),
            Account(0.0),
            queued=at * apart,
        )
        for at, (tenant, priority) in enumerate(came)
    ]
    chance.shuffle(entries)
    order = in_order(entries)
    assert [entry.tenant for entry in order] == [entry.tenant for entry in entries]
    for tenant in {tenant for tenant, _ in came}:
        turns = [entry.turn for entry in order if entry.tenant == tenant]
        assert turns == sorted(turns)
    assert in_order(order) == order


@pytest.mark.parametrize(("blocks", "rows", "prompt"), [(9, 2, 8), (65, 16, 16)])
def test_tenants_take_turns_where_blocks_are_short(rig: Make, blocks: int, rows: int, prompt: int) -> None:
    """A tenant of one request beside one of twenty that came before: who was let in after it makes way for it."""
    r = rig(groups=(CacheGroup(Full(), blocks, 1),), max_rows=rows, prefix_cache=False)
    for number in range(20):
        r.add(make_request(range(prompt), 5 * prompt // 2, id=f"a{number}", cache_salt=b"a"))
    r.step()
    r.add(make_request(range(prompt), 5 * prompt // 2, id="b", cache_salt=b"b"))
    r.finish()
    ends = [stats.id for stats in r.seen.requests]
    assert sum(stats.preemptions for stats in r.seen.requests) > 5
    assert r.stats("b").preemptions <= 1
    assert ends.index("b") <= rows, "it waited for those that ran when it came"
