"""One group of layers with the same span: its pool of blocks, and what the span means in blocks. No torch here."""

from __future__ import annotations

import sys

from model.config import Full
from server.engine.blocks import Block, BlockPool, Link
from server.engine.step import CacheGroup


class Group:
    """One group's pool, and what its span means in blocks."""

    def __init__(self, group: CacheGroup, block_size: int, chunk: int) -> None:
        self.pool = BlockPool(group.num_blocks)
        self.bytes_per_block = group.bytes_per_block
        self.span = group.span
        self._every, self.is_sparse = group.every, group.every > 1
        self.sees_all = isinstance(group.span, Full)
        self._block_size = block_size
        self._window_blocks = sys.maxsize
        if not isinstance(group.span, Full):
            # What the first token of a step looks back on, and the step's own tokens, at any alignment.
            self._window_blocks = (group.span.size - 1 + chunk + block_size - 2) // block_size + 1
        if group.every > 1:  # of a step's own, every so manieth, the last full one and that behind it; and one before
            self._window_blocks = min(self._window_blocks, chunk // (block_size * group.every) + 4)

    def first_needed(self, position: int) -> int:
        """Index of the first block that the token at `position` or a later one can see."""
        return self.span.first_visible(position) // self._block_size

    def keeps(self, at: int, last: int) -> bool:
        """Whether a request can go on from behind block `at`. last: from this one on a step of a prompt keeps all: the
        last that ends before it does, where the same prompt finds it, and one that ends with it."""
        return (at + 1) % self._every == 0 or at >= last

    def holds(self, start: int, tokens: int) -> list[bool]:
        """For each block from `start` on of those that [0, tokens) needs, whether something will be kept in it."""
        stop = -(-tokens // self._block_size)
        return [self.keeps(at, stop - 2) for at in range(start, stop)]

    def peak(self, tokens: int) -> int:
        """Most blocks held at once while `tokens` are computed."""
        return min(-(-tokens // self._block_size), self._window_blocks)

    @property
    def capacity(self) -> int:
        """Most tokens one request may have."""
        total = self.pool.total
        return sys.maxsize if self._window_blocks <= total else total * self._block_size

    def leading(self, links: list[Link]) -> int:
        """How many blocks from the first on are here without a gap."""
        return next((i for i, link in enumerate(links) if self.pool.find(link) is None), len(links))

    def covered(self, links: list[Link], count: int, known: bool) -> int:
        """The most blocks, up to `count`, after which every block that the next token sees is here. Unless it is known
        that somebody computed so many, the last of them is, too: the next token may see nothing before it."""
        at = count
        while at > self._first_wanted(count, known):
            at -= 1
            if self.pool.find(links[at]) is None:
                count = at
        return count

    def _first_wanted(self, count: int, known: bool) -> int:
        needed = self.first_needed(count * self._block_size)
        return needed if known else min(needed, max(0, count - 1))

    def found(self, links: list[Link], count: int) -> list[Block]:
        """The blocks that a request which starts after `count` cached ones must hold."""
        blocks = [self.pool.find(link) for link in links[self.first_needed(count * self._block_size) : count]]
        return [block for block in blocks if block is not None]

    def fits(self, found: list[Block], tokens: int) -> bool:
        """Whether a request of `tokens` can be computed to its end beside those that hold blocks now."""
        idle = sum(block.holders == 0 for block in found)
        return self.pool.num_free - idle >= self.peak(tokens) - len(found)
