"""Cache blocks of one group: who holds them, which can be found again, which is taken next. No torch here.

    empty ──take──▶ held ──release──▶ cached (when it has a key) or empty
                     ▲                   │
                     └──share (a hit)────┤
                     └──take (evicts) ◀──┘ the longest unused first

A block that nobody holds keeps its key and its contents until it is needed for something else: the list of free blocks
*is* the prefix cache.
"""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from server.engine.request import Routes
from server.engine.stats import GroupUse


class OutOfBlocks(Exception):
    """Nothing is free."""


@dataclass(frozen=True, slots=True)
class Link:
    """One block of a prefix: `key` names the whole prefix up to its end, `tokens` are its own ids as bytes."""

    key: bytes
    tokens: bytes


class Chain:
    """Names prefixes: key = hash(secret, key of the prefix before, the block's tokens); the salt is the first "before".

    Keyed with a secret of the process, so that nobody outside can compute a name or make two prefixes share one.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = os.urandom(32) if secret is None else secret

    def root(self, salt: bytes, source: Sequence[int] = ()) -> bytes:
        """What stands before the first block: prefixes of different salts or sources have nothing in common."""
        data = len(salt).to_bytes(8) + salt + array("q", source).tobytes()
        return blake2b(data, key=self._secret, digest_size=32, person=b"salt").digest()

    def link(self, before: bytes, tokens: list[int]) -> Link:
        # Both parts have a fixed width, so no other split of the same bytes is possible.
        data = array("q", tokens).tobytes()
        return Link(blake2b(before + data, key=self._secret, digest_size=32, person=b"block").digest(), data)


@dataclass(slots=True, eq=False)
class Block:
    """One block of a group's memory; `link` is None while nobody can find it."""

    id: int
    holders: int = 0
    link: Link | None = None
    routes: Routes | None = None  # of its tokens, kept so that a hit can still tell how they were routed


class BlockPool:
    """The blocks 1 .. num_blocks - 1 of one group; 0 stands for "no block" and is never handed out."""

    def __init__(self, num_blocks: int) -> None:
        self._blocks = [Block(number) for number in range(num_blocks)]
        self._empty = self._blocks[:0:-1]  # taken from the end, so low numbers first
        self._cached: OrderedDict[int, Block] = OrderedDict()  # free but findable; the first is evicted next
        self._index: dict[bytes, Block] = {}

    @property
    def total(self) -> int:
        return len(self._blocks) - 1

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._cached)

    @property
    def use(self) -> GroupUse:
        return GroupUse(self.total, self.total - self.num_free, len(self._cached))

    def take(self) -> int:
        """Hand out an empty block, or else evict the cached one that was unused for longest; may raise OutOfBlocks."""
        if self._empty:
            block = self._empty.pop()
        elif self._cached:
            _, block = self._cached.popitem(last=False)
            self._unlink(block)
        else:
            raise OutOfBlocks
        block.holders = 1
        return block.id

    def find(self, link: Link) -> Block | None:
        """The block that holds exactly this prefix. The tokens are compared too: a name alone is not trusted."""
        block = self._index.get(link.key)
        return block if block is not None and block.link is not None and block.link.tokens == link.tokens else None

    def share(self, block: Block) -> int:
        """Become one more holder of a block that was found."""
        if block.holders == 0:
            del self._cached[block.id]
        block.holders += 1
        return block.id

    def release(self, number: int) -> None:
        """Stop holding a block; the last holder frees it."""
        block = self._blocks[number]
        assert block.holders > 0, f"block {number} was released once too often"
        block.holders -= 1
        if block.holders == 0:
            self._shelve(block)

    def publish(self, number: int, link: Link, routes: Routes | None) -> None:
        """Let a held, fully computed block be found; a second block with the same contents stays private."""
        if link.key not in self._index:
            block = self._blocks[number]
            block.link, block.routes = link, routes
            self._index[link.key] = block

    def forget(self, key: bytes) -> None:
        """Nobody shall find this prefix any more; whoever holds the block keeps it."""
        block = self._index.get(key)
        if block is None:
            return
        self._unlink(block)
        if block.holders == 0:
            del self._cached[block.id]
            self._empty.append(block)

    def forget_all(self) -> None:
        for key in list(self._index):
            self.forget(key)

    def check(self, held: Iterable[int]) -> None:
        """Raise AssertionError unless the books balance; `held` is every table entry of every holder."""
        holders = [0] * len(self._blocks)
        for number in held:
            holders[number] += 1
        assert holders[0] == 0, "the null block is held"
        for block in self._blocks[1:]:
            assert block.holders == holders[block.id], f"block {block.id}: {block.holders} != {holders[block.id]}"
            self._check_shelf(block)
        empty = {block.id for block in self._empty}
        assert len(empty) == len(self._empty), "a block is empty twice"
        assert self.num_free == sum(count == 0 for count in holders[1:]), "a free block is lost"
        assert all(block.link is not None for block in self._index.values()), "a key leads to a block without one"

    def _check_shelf(self, block: Block) -> None:
        if block.link is None:
            assert block.routes is None, f"block {block.id} keeps the routes of nothing"
        else:
            assert self._index.get(block.link.key) is block, f"block {block.id} has a key but cannot be found"
        idle = block.holders == 0 and block.link is not None
        assert (block.id in self._cached) == idle, f"block {block.id} lies on the wrong shelf"

    def _shelve(self, block: Block) -> None:
        if block.link is None:
            self._empty.append(block)
        else:
            self._cached[block.id] = block

    def _unlink(self, block: Block) -> None:
        assert block.link is not None
        del self._index[block.link.key]
        block.link = block.routes = None
