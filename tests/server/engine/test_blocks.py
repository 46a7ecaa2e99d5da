"""The pool of one group: books that balance under any sequence of operations, and a cache that forgets the oldest."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from server.engine.blocks import BlockPool, Chain, Link, OutOfBlocks
from server.engine.stats import GroupUse

CHAIN = Chain(b"a secret")


def link(*tokens: int) -> Link:
    return CHAIN.link(CHAIN.root(b""), list(tokens))


def test_hands_out_every_block_but_zero() -> None:
    pool = BlockPool(4)
    assert [pool.take(), pool.take(), pool.take()] == [1, 2, 3]
    with pytest.raises(OutOfBlocks):
        pool.take()
    assert pool.use == GroupUse(total=3, used=3, cached=0)


def test_a_released_block_is_found_until_it_is_needed() -> None:
    pool = BlockPool(3)
    number = pool.take()
    pool.publish(number, link(1, 2), None)
    pool.release(number)
    assert pool.use == GroupUse(total=2, used=0, cached=1)
    block = pool.find(link(1, 2))
    assert block is not None and pool.share(block) == number
    assert pool.use == GroupUse(total=2, used=1, cached=0)
    pool.release(number)
    assert {pool.take(), pool.take()} == {1, 2}
    assert pool.find(link(1, 2)) is None


def test_evicts_what_was_unused_for_longest_and_empty_blocks_first() -> None:
    pool = BlockPool(5)
    numbers = [pool.take() for _ in range(3)]
    for number in numbers:
        pool.publish(number, link(number), None)
    for number in (2, 1, 3):
        pool.release(number)
    assert [pool.take() for _ in range(4)] == [4, 2, 1, 3]


def test_a_hit_makes_a_block_young_again() -> None:
    pool = BlockPool(3)
    for number in (pool.take(), pool.take()):
        pool.publish(number, link(number), None)
    pool.release(1)
    pool.release(2)
    block = pool.find(link(1))
    assert block is not None
    pool.release(pool.share(block))
    assert [pool.take(), pool.take()] == [2, 1]


def test_the_second_block_of_the_same_contents_stays_private() -> None:
    pool = BlockPool(3)
    first, second = pool.take(), pool.take()
    pool.publish(first, link(7), None)
    pool.publish(second, link(7), None)
    pool.release(second)
    assert pool.use == GroupUse(total=2, used=1, cached=0)
    found = pool.find(link(7))
    assert found is not None and found.id == first


def test_a_forgotten_block_is_kept_by_its_holder_only() -> None:
    pool = BlockPool(3)
    number = pool.take()
    pool.publish(number, link(1), None)
    pool.forget(link(1).key)
    assert pool.find(link(1)) is None
    pool.check([number])
    pool.release(number)
    assert pool.use == GroupUse(total=2, used=0, cached=0)


def test_a_name_alone_is_not_trusted() -> None:
    pool = BlockPool(2)
    pool.publish(pool.take(), link(1, 2), None)
    forged = Link(link(1, 2).key, link(3, 4).tokens)
    assert pool.find(forged) is None


def test_a_block_released_twice_is_our_bug() -> None:
    pool = BlockPool(2)
    pool.release(pool.take())
    with pytest.raises(AssertionError, match="once too often"):
        pool.release(1)


def test_check_sees_a_lost_block() -> None:
    pool = BlockPool(3)
    pool.take()
    with pytest.raises(AssertionError):
        pool.check([])


class TestChain:
    def test_depends_on_everything_before(self) -> None:
        root = CHAIN.root(b"")
        first = CHAIN.link(root, [1, 2])
        assert CHAIN.link(first.key, [3, 4]).key != CHAIN.link(root, [3, 4]).key
        assert CHAIN.link(root, [1, 2]) == first

    def test_no_two_splits_of_the_same_tokens_meet(self) -> None:
        root = CHAIN.root(b"")
        one = CHAIN.link(CHAIN.link(root, [1]).key, [2, 3])
        other = CHAIN.link(CHAIN.link(root, [1, 2]).key, [3])
        whole = CHAIN.link(root, [1, 2, 3])
        assert len({one.key, other.key, whole.key}) == 3

    def test_salts_and_secrets_keep_apart(self) -> None:
        keys = {CHAIN.root(b""), CHAIN.root(b"a"), CHAIN.root(b"b"), Chain(b"other").root(b"a"), Chain().root(b"a")}
        assert len(keys) == 5

    def test_keys_have_256_bits(self) -> None:
        assert len(CHAIN.root(b"")) == len(link(1).key) == 32


class PoolMachine(RuleBasedStateMachine):
    """Take, share, release, publish, forget and reset in any order, beside a model of plain lists."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6)
        self.holders: list[int] = []
        self.contents: dict[int, Link] = {}  # what a findable block holds

    @precondition(lambda self: self.pool.num_free > 0)
    @rule(target=held)
    def take(self) -> int:
        number = self.pool.take()
        assert number not in self.holders, "handed out twice"
        self.contents.pop(number, None)
        self.holders.append(number)
        return number

    @precondition(lambda self: self.pool.num_free == 0)
    @rule()
    def take_in_vain(self) -> None:
        with pytest.raises(OutOfBlocks):
            self.pool.take()

    @rule(target=held, number=st.integers(0, 9))
    def share(self, number: int) -> object:
        block = self.pool.find(link(number))
        expected = next((at for at, known in self.contents.items() if known == link(number)), None)
        assert (block.id if block else None) == expected
        if block is None:
            return multiple()
        self.holders.append(self.pool.share(block))
        return block.id

    @rule(number=held)
    def release(self, number: int) -> None:
        if number in self.holders:
            self.holders.remove(number)
            self.pool.release(number)

    @rule(number=held, contents=st.integers(0, 9))
    def publish(self, number: int, contents: int) -> None:
        if number in self.holders and number not in self.contents:
            self.pool.publish(number, link(contents), None)
            if link(contents) not in self.contents.values():
                self.contents[number] = link(contents)

    @rule(contents=st.integers(0, 9))
    def forget(self, contents: int) -> None:
        self.pool.forget(link(contents).key)
        self.contents = {at: known for at, known in self.contents.items() if known != link(contents)}

    @rule()
    def forget_all(self) -> None:
        self.pool.forget_all()
        self.contents.clear()
        assert self.pool.use.cached == 0

    @invariant()
    def books_balance(self) -> None:
        self.pool.check(self.holders)
        use = self.pool.use
        assert use.used == len(set(self.holders))
        assert use.cached == len(set(self.contents) - set(self.holders))


TestPoolMachine = PoolMachine.TestCase
