"""Who waits, and whose turn it is: tenants go round, each with its own line."""

from __future__ import annotations

from typing import NamedTuple

from model.config import Full
from server.engine.step import CacheGroup
from server.engine.waiting import Waiting
from tests.fakes import make_request
from tests.server.engine.conftest import Rig
from tests.server.engine.test_priority import Make, first_steps


class One(NamedTuple):
    name: str
    turn: float = 0.0


def waiting(*names: str) -> Waiting[One]:
    """Names begin with their tenant's letter; all have the same turn, and so that of their arrival."""
    made: Waiting[One] = Waiting(lambda one: one.name[:1].encode(), lambda one: one.turn)
    for name in names:
        made.add(One(name))
    return made


def order(queue: Waiting[One]) -> list[str]:
    return [one.name for one in queue]


def test_tenants_take_turns() -> None:
    queue = waiting("a1", "a2", "a3", "b5", "b6")
    assert order(queue) == ["a1", "b5", "a2", "b6", "a3"]
    queue.let_in(One("a1"))
    assert order(queue) == ["b5", "a2", "b6", "a3"], "the order that was told is the one that comes"
    queue.add(One("c7"))
    assert order(queue) == ["b5", "a2", "c7", "b6", "a3"]


def test_within_a_line_the_earliest_turn_is_first() -> None:
    queue = waiting("a1", "b1")
    queue.add(One("a0", -1.0))
    queue.add(One("a2"))
    assert order(queue) == ["a0", "b1", "a1", "a2"]
    queue.put_back(One("b0"))
    assert order(queue) == ["b0", "a0", "b1", "a1", "a2"], "who was let in already stands before all"


def test_who_leaves_unserved_costs_nobody_their_turn() -> None:
    queue = waiting("a1", "a2", "b1")
    queue.remove(One("a1"))
    assert order(queue) == ["a2", "b1"]
    queue.remove(One("a2"))
    assert (order(queue), len(queue)) == (["b1"], 1)
    queue.remove(One("b1"))
    assert not queue and queue.lines == []


def test_one_request_does_not_wait_for_all_of_another_tenant(rig: Make) -> None:
    r = rig(max_rows=1)
    for number in range(20):
        r.add(make_request([1, 2], 2, id=f"a{number}", cache_salt=b"a"))
    r.step()
    r.add(make_request([1, 2], 2, id="b", cache_salt=b"b"))
    r.add(make_request([1, 2], 2, id="a20", cache_salt=b"a", priority=-100))
    r.finish()
    assert first_steps(r)[:5] == ["a0", "a20", "b", "a1", "a2"], "and priority is among one's own"


def test_who_was_preempted_goes_on_before_others_begin(rig: Make) -> None:
    r: Rig = rig(groups=(CacheGroup(Full(), 9, 1),), prefix_cache=False)  # 32 tokens
    for name in ("a", "b"):
        r.add(make_request(range(8), 20, id=name, cache_salt=name.encode()))
    r.step()
    r.add(make_request(range(8), 20, id="c", cache_salt=b"c"))
    r.finish()
    assert r.stats("b").preemptions == 1
    assert first_steps(r) == ["a", "b", "c"]
    assert all(len(r.said(name)) == 20 for name in "abc")
