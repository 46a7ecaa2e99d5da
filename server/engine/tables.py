"""The cache of one model: a pool of blocks for each group of layers, and what one request holds in each. No torch here.

Layers that see everything keep every block; layers with a window or a chunk give back what no later token can see:

    position   0 ......... first_visible(next) ......... next ...... room
    full       [  held, computed                        |  held     ]
    window     [  0, given back | held, computed        |  held     ]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from server.engine.blocks import Chain, OutOfBlocks
from server.engine.group import Group
from server.engine.holding import Holding
from server.engine.request import Request, Routes
from server.engine.routes import RouteLog
from server.engine.stats import GroupUse
from server.engine.step import CacheGroup


class Cache:
    """All groups of one model. `chunk`: most tokens a step computes of one request; `routed`: blocks keep routes.

    Where no group sees everything, a routed model must still find every block of a prefix in one group to tell how the
    prefix was routed: the keeper, which stands in for a full group when prefixes are looked up.
    """

    def __init__(
        self,
        groups: tuple[CacheGroup, ...],
        block_size: int,
        *,
        chunk: int,
        prefix: bool = True,
        routed: bool = False,
        memory: CacheGroup | None = None,
    ) -> None:
        self.block_size = block_size
        self._memory = None if memory is None else Group(memory, block_size, chunk)
        self._groups = tuple(Group(group, block_size, chunk) for group in groups)
        self._keeper = next((group for group in self._groups if group.sees_all), self._groups[0])
        self._whole = [group for group in self._groups if group.sees_all or (routed and group is self._keeper)]
        self._windows = [(index, group) for index, group in enumerate(self._groups) if not group.sees_all]
        self._prefix = prefix
        self._chain = Chain()
        self._coming: dict[bytes, Holding] = {}  # names of blocks that requests under way have yet to compute

    @property
    def capacity(self) -> int:
        """Most tokens one request may have, prompt and outputs together."""
        return min(group.capacity for group in self._groups)

    @property
    def source_capacity(self) -> int:
        """Most tokens the source of one request may have."""
        return 0 if self._memory is None else self._memory.capacity

    @property
    def use(self) -> tuple[GroupUse, ...]:
        return tuple(group.pool.use for group in (*self._groups, *([self._memory] if self._memory else [])))

    def holding(self) -> Holding:
        """Nothing, yet."""
        return Holding([[] for _ in self._groups], [0] * len(self._groups))

    def is_coming(self, request: Request, holding: Holding) -> bool:
        """Whether at least half of what a request lacks is being computed by others: then it waits for that part."""
        if self.awaits(holding):
            return True
        holding.awaited = None
        if self._prefix and self._coming:
            count = self._longest_prefix(request, holding)
            lacking = holding.links[count : self._useful(request)]
            shared = next((i for i, link in enumerate(lacking) if link.key not in self._coming), len(lacking))
            if shared and 2 * shared * self.block_size >= request.num_tokens - count * self.block_size:
                holding.awaited = lacking[shared - 1].key
        return holding.awaited is not None

    def awaits(self, holding: Holding) -> bool:
        """Whether what a request was found to wait for is still to come."""
        return holding.awaited in self._coming

    def admit(self, request: Request, holding: Holding) -> int | None:
        """Hand a request that holds nothing the longest prefix that is cached.

        Returns the prefix's tokens (a multiple of block_size; at least one token is left to compute), or None when the
        request's tokens do not all fit beside what is held now; nothing is changed then.
        """
        count = self._longest_prefix(request, holding) if self._prefix else 0
        found = [group.found(holding.links, count) for group in self._groups]
        if not all(group.fits(blocks, request.num_tokens) for group, blocks in zip(self._groups, found, strict=True)):
            return None
        if not self._take_source(request, holding):
            return None
        for index, (group, blocks) in enumerate(zip(self._groups, found, strict=True)):
            missing = count - len(blocks)
            holding.tables[index] = [0] * missing + [group.pool.share(block) for block in blocks]
            holding.given_back[index] = missing
        holding.published = count
        for link in holding.links[count : self._useful(request)] if self._prefix else ():
            self._coming.setdefault(link.key, holding)
        self._measure(holding)
        return count * self.block_size

    def prefix_routes(self, holding: Holding) -> Routes | None:
        """How the prefix that `admit` has just handed out was routed."""
        blocks = [self._keeper.pool.find(link) for link in holding.links[: holding.published]]
        parts = [block.routes for block in blocks if block is not None and block.routes is not None]
        return Routes.join(parts) if parts else None

    def extend(self, holding: Holding, tokens: int) -> bool:
        """Hold room for positions [0, tokens); False, with nothing changed, when a group has not enough."""
        room = holding.room
        if room * self.block_size >= tokens:
            return True
        held = [group.holds(room, tokens) for group in self._groups]
        counts = [sum(each) for each in held]
        if any(group.pool.num_free < count for group, count in zip(self._groups, counts, strict=True)):
            return False
        taken = self._take(counts)
        if not taken:
            return False
        for table, numbers, each in zip(holding.tables, taken, held, strict=True):
            found = iter(numbers)
            table.extend(next(found) if one else 0 for one in each)
        self._measure(holding)
        return True

    def trim(self, holding: Holding, tokens: int) -> bool:
        """Release what is held beyond positions [0, tokens); whether there was any."""
        keep = -(-tokens // self.block_size)
        if holding.room <= keep:
            return False
        for table, group in zip(holding.tables, self._groups, strict=True):
            for number in reversed(table[keep:]):
                if number:
                    group.pool.release(number)
            del table[keep:]
        self._measure(holding)
        return True

    def computed(self, request: Request, holding: Holding, log: RouteLog | None) -> None:
        """The request's tokens up to num_computed are in the cache: publish full blocks, give back invisible ones."""
        if self._prefix and request.num_computed // self.block_size > holding.published:
            self._publish(request, holding, log)
        for index, group in self._windows:
            first = group.first_needed(request.num_computed)
            if first > holding.given_back[index]:
                self._give_back(holding, index, first)

    def release(self, holding: Holding) -> None:
        """Give everything back, the tail first: of a cached prefix the end is evicted before the beginning."""
        for table, group in zip(holding.tables, self._groups, strict=True):
            for number in reversed(table):
                if number:
                    group.pool.release(number)
            table.clear()
        if self._memory is not None:
            for number in holding.source:
                self._memory.pool.release(number)
        self._come(holding, holding.published, len(holding.links))
        holding.source, holding.encoded, holding.bytes = [], False, 0
        holding.given_back = [0] * len(self._groups)
        holding.published = 0
        holding.changed()

    def discard(self, holding: Holding) -> None:
        """Give everything back and let nobody find any of it: its contents cannot be trusted."""
        for link in holding.links:
            for group in self._groups:
                group.pool.forget(link.key)
        self.release(holding)

    def reset(self) -> None:
        """Forget every prefix; requests under way keep what they hold."""
        for group in self._groups:
            group.pool.forget_all()

    def check(self, holdings: Iterable[Holding]) -> None:
        """Raise AssertionError unless every block is either free or held by exactly those who list it."""
        everyone = list(holdings)
        assert all(any(holding is one for one in everyone) for holding in self._coming.values()), "a promise is left"
        for index, group in enumerate(self._groups):
            for holding in everyone:
                table, given_back = holding.tables[index], holding.given_back[index]
                assert len(table) == holding.room, "tables of different lengths"
                needed = table[-1:] if group.is_sparse else table[given_back:]
                assert not any(table[:given_back]) and all(needed), f"holes in {table}"
            group.pool.check(number for holding in everyone for number in holding.tables[index] if number)
        if self._memory is not None:
            self._memory.pool.check(number for holding in everyone for number in holding.source)

    def _longest_prefix(self, request: Request, holding: Holding) -> int:
        count = self._useful(request)
        self._name(request, holding, count)
        links = holding.links
        for group in self._whole:
            count = group.leading(links[:count])
        before = -1
        while count != before:  # one group's shorter prefix may lack blocks of another, so until all agree
            before = count
            for _, group in self._windows:
                count = group.covered(links, count, known=bool(self._whole))
        return count

    def _useful(self, request: Request) -> int:
        """How many blocks of a request it could take from the cache: one token at least is computed."""
        count = (request.num_tokens - 1) // self.block_size
        if request.unscored is not None:  # what is found in the cache has no logits
            count = min(count, request.unscored // self.block_size)
        return count

    def _come(self, holding: Holding, start: int, stop: int) -> None:
        """Nobody need wait any longer for these blocks of a request."""
        for link in holding.links[start:stop]:
            if self._coming.get(link.key) is holding:
                del self._coming[link.key]

    def _name(self, request: Request, holding: Holding, count: int) -> None:
        links, size = holding.links, self.block_size
        before = links[-1].key if links else self._chain.root(request.cache_salt, request.source)
        for start in range(len(links) * size, count * size, size):
            links.append(self._chain.link(before, request.tokens(start, start + size)))
            before = links[-1].key

    def _take_source(self, request: Request, holding: Holding) -> bool:
        """Hold room for the request's source, all of it; False, with nothing changed, when there is not enough."""
        if self._memory is None or not request.source:
            return True
        count = self._memory.peak(len(request.source))
        if self._memory.pool.num_free < count:
            return False
        holding.source = [self._memory.pool.take() for _ in range(count)]
        return True

    def _take(self, counts: Sequence[int]) -> list[list[int]]:
        """So many blocks of each group, or of none."""
        taken: list[list[int]] = []
        try:
            for group, count in zip(self._groups, counts, strict=True):
                taken.append([])
                for _ in range(count):
                    taken[-1].append(group.pool.take())
        except OutOfBlocks:
            for group, numbers in zip(self._groups, taken, strict=False):
                for number in numbers:
                    group.pool.release(number)
            return []
        return taken

    def _publish(self, request: Request, holding: Holding, log: RouteLog | None) -> None:
        size, full = self.block_size, request.num_computed // self.block_size
        self._name(request, holding, full)
        within = request.num_computed <= request.num_prompt_tokens
        last = (request.num_computed - 1) // size - 1 if within else sys.maxsize
        for at in range(holding.published, full):
            routes = log.copy(at * size, (at + 1) * size) if log is not None else None
            for table, group in zip(holding.tables, self._groups, strict=True):
                if not group.keeps(at, last):
                    continue
                group.pool.publish(table[at], holding.links[at], routes if group is self._keeper else None)
        self._come(holding, holding.published, full)
        holding.published = full

    def _give_back(self, holding: Holding, index: int, first: int) -> None:
        table, pool = holding.tables[index], self._groups[index].pool
        held = [at for at in range(holding.given_back[index], first) if table[at]]
        for at in reversed(held):
            pool.release(table[at])
            table[at] = 0
        holding.bytes -= len(held) * self._groups[index].bytes_per_block
        holding.given_back[index] = first
        holding.changed()

    def _measure(self, holding: Holding) -> None:
        holding.changed()
        held = zip(holding.tables, self._groups, strict=True)
        now = sum((len(table) - table.count(0)) * group.bytes_per_block for table, group in held)
        now += len(holding.source) * (self._memory.bytes_per_block if self._memory else 0)
        holding.bytes, holding.peak_bytes = now, max(holding.peak_bytes, now)
