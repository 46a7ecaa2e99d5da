"""What is left of a step while it is shared out, worked out by hand."""

from __future__ import annotations

import pytest

from server.engine.account import Account
from server.engine.entry import Entry
from server.engine.holding import Holding
from server.engine.plan import Plan
from tests.fakes import make_request


def entry(id: str = "a") -> Entry:
    return Entry(make_request([1], 1, id=id), Holding([[]], [0]), Account(0.0))


def test_what_is_given_is_not_left() -> None:
    plan, one, other = Plan(10), entry(), entry("b")
    plan.give(one, 3)
    plan.give(other, 1)
    plan.give(one, 2)
    assert (plan.tokens, plan.left, plan.room) == ({one: 5, other: 1}, 4, 4)
    plan.guess(other, (7, 8))
    assert (plan.drafts, plan.left, plan.room) == ({other: (7, 8)}, 2, 2)


def test_a_bound_is_for_those_who_come_after_it() -> None:
    plan, one, other = Plan(10), entry(), entry("b")
    plan.give(one, 1)
    plan.bound(4)
    assert (plan.left, plan.room) == (9, 4)
    plan.give(other, 3)
    assert (plan.left, plan.room) == (6, 1)


@pytest.mark.parametrize(("chunk", "somebody"), [(None, True), (4, False)])
def test_there_is_no_bound_where_nobody_asks_for_one_or_is_held_up(chunk: int | None, somebody: bool) -> None:
    plan = Plan(10)
    if somebody:
        plan.give(entry(), 1)
    plan.bound(chunk)
    assert plan.room == plan.left


def test_who_loses_its_blocks_leaves_its_tokens_to_others() -> None:
    plan, one, other = Plan(10), entry(), entry("b")
    plan.give(one, 6)
    plan.withdraw(one)
    plan.withdraw(other)
    assert (plan.tokens, plan.left, plan.preempted) == ({}, 10, [one, other])


def test_one_source_is_always_taken_and_others_where_there_is_room_for_a_token_beside() -> None:
    plan = Plan(10)
    plan.read(0)
    assert plan.takes(99)
    plan.read(6)
    assert plan.takes(3) and not plan.takes(4) and plan.takes(0)
    plan.read(3)
    assert (plan.left, plan.room) == (1, 1) and not plan.takes(1)
    plan.read(99)
    assert plan.room == 0
