"""Several groups together: what a window gives back, which prefixes are found, and that no block is ever lost."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from model.config import Chunk, Full, Span, Window
from server.engine.blocks import OutOfBlocks
from server.engine.holding import Holding
from server.engine.request import Request, Routes
from server.engine.routes import RouteLog
from server.engine.stats import GroupUse
from server.engine.step import CacheGroup, MixtureShape
from server.engine.tables import Cache
from tests.fakes import make_request

BLOCK = 4


def cache_of(*spans: Span, blocks: int = 33, chunk: int = 16, prefix: bool = True, routed: bool = False) -> Cache:
    return Cache(
        tuple(CacheGroup(span, blocks, 100) for span in spans), BLOCK, chunk=chunk, prefix=prefix, routed=routed
    )


def compute(cache: Cache, request: Request, holding: Holding, upto: int, log: RouteLog | None = None) -> None:
    assert cache.extend(holding, upto)
    request.num_computed = upto
    cache.computed(request, holding, log)


def leave_behind(cache: Cache, tokens: range) -> None:
    """Compute a request to its end and let it go, so that its blocks are cached."""
    request, holding = make_request(tokens, 1), cache.holding()
    assert cache.admit(request, holding) is not None
    compute(cache, request, holding, len(tokens))
    cache.release(holding)


class TestGivingBack:
    def test_a_full_span_keeps_everything(self) -> None:
        cache = cache_of(Full())
        request, holding = make_request(range(13), 1), cache.holding()
        compute(cache, request, holding, 13)
        assert holding.tables == [[1, 2, 3, 4]]

    def test_a_window_gives_back_blocks_that_lie_wholly_before_it(self) -> None:
        cache = cache_of(Window(6))
        request, holding = make_request(range(14), 1), cache.holding()
        compute(cache, request, holding, 8)  # the next token, 8, sees 3 .. 8: block 0 holds position 3
        assert holding.tables == [[1, 2]]
        compute(cache, request, holding, 9)  # 9 sees 4 .. 9
        assert holding.tables == [[0, 2, 3]]
        compute(cache, request, holding, 13)  # 13 sees 8 .. 13
        assert [table.tolist() for table in holding.frozen] == [[0, 0, 3, 4]]
        cache.check([holding])

    def test_a_step_carries_the_tables_as_they_are_now(self) -> None:
        cache = cache_of(Window(6))
        request, holding = make_request(range(14), 1), cache.holding()
        assert cache.extend(holding, 12)
        assert [table.tolist() for table in holding.frozen] == [[1, 2, 3]]
        compute(cache, request, holding, 9)
        assert [table.tolist() for table in holding.frozen] == [[0, 2, 3]]

    def test_a_chunk_gives_back_everything_at_its_end(self) -> None:
        cache = cache_of(Chunk(8))
        request, holding = make_request(range(20), 1), cache.holding()
        compute(cache, request, holding, 7)
        assert holding.tables == [[1, 2]]
        compute(cache, request, holding, 8)
        assert holding.tables == [[0, 0]]

    def test_groups_give_back_each_by_its_own_span(self) -> None:
        cache = cache_of(Full(), Window(4))
        request, holding = make_request(range(12), 1), cache.holding()
        compute(cache, request, holding, 12)
        assert holding.tables == [[1, 2, 3], [0, 0, 3]]
        assert cache.use == (GroupUse(32, 3, 0), GroupUse(32, 1, 2))
        cache.release(holding)
        assert cache.use == (GroupUse(32, 0, 3), GroupUse(32, 0, 3))

    def test_peak_bytes_remember_the_most_that_was_held(self) -> None:
        cache = cache_of(Full(), Window(4))
        request, holding = make_request(range(13), 1), cache.holding()
        compute(cache, request, holding, 12)
        assert holding.peak_bytes == 600
        compute(cache, request, holding, 13)
        assert holding.peak_bytes == 600  # 4 + 2 now


class TestPrefixes:
    @pytest.mark.parametrize(("length", "cached"), [(4, 0), (5, 4), (8, 4), (9, 8), (12, 8), (13, 8), (30, 8)])
    def test_a_hit_is_whole_blocks_and_leaves_a_token_to_compute(self, length: int, cached: int) -> None:
        cache = cache_of(Full())
        leave_behind(cache, range(11))  # two full blocks and three tokens
        assert cache.admit(make_request(range(length), 1), cache.holding()) == cached

    def test_other_tokens_and_other_salts_do_not_hit(self) -> None:
        cache = cache_of(Full())
        leave_behind(cache, range(12))
        assert cache.admit(make_request(range(1, 13), 1), cache.holding()) == 0
        assert cache.admit(make_request(range(12), 1, cache_salt=b"somebody"), cache.holding()) == 0

    def test_a_shared_block_has_one_holder_more(self) -> None:
        cache = cache_of(Full())
        first, second = cache.holding(), cache.holding()
        compute(cache, make_request(range(9), 1), first, 9)
        assert cache.admit(make_request(range(9), 1), second) == 8
        assert second.tables == [first.tables[0][:2]]
        cache.check([first, second])
        cache.release(first)
        cache.check([second])

    def test_the_tail_of_a_prefix_is_evicted_first(self) -> None:
        cache = cache_of(Full(), blocks=5)
        leave_behind(cache, range(16))
        holding = cache.holding()
        assert cache.extend(holding, 8)  # takes two of the four
        cache.release(holding)
        assert cache.admit(make_request(range(16), 1), cache.holding()) == 8

    @pytest.mark.parametrize(
        ("length", "evicted", "cached"),
        [
            (17, [], 16),  # 16 sees 11 .. 16: blocks 2 and 3
            (17, [0, 1], 16),  # which nothing needs any more
            (17, [2], 8),  # 8 sees 3 .. 8: blocks 0 and 1
            (17, [3], 12),  # 12 sees 7 .. 12: blocks 1 and 2
            (17, [1, 3], 4),
            (17, [1, 2], 4),
            (17, [0, 2], 0),
        ],
    )
    def test_a_window_needs_only_what_the_next_token_sees(self, length: int, evicted: list[int], cached: int) -> None:
        cache = cache_of(Window(6))
        leave_behind(cache, range(16))
        request, holding = make_request(range(length), 1), cache.holding()
        probe = cache.holding()
        cache.admit(request, probe)  # names the blocks
        cache.release(probe)
        pool = cache._groups[0].pool
        for block in evicted:
            pool.forget(probe.links[block].key)
        assert cache.admit(request, holding) == cached
        first = max(0, cached - 5) // BLOCK
        assert holding.tables[0][:first] == [0] * first and all(holding.tables[0][first:])
        assert len(holding.tables[0]) == cached // BLOCK
        cache.check([holding])

    def test_a_chunk_boundary_needs_nothing_before_it(self) -> None:
        cache = cache_of(Chunk(8))
        leave_behind(cache, range(16))
        probe = cache.holding()
        assert cache.admit(make_request(range(17), 1), probe) == 16
        assert probe.tables == [[0, 0, 0, 0]]

    @pytest.mark.parametrize("span", [Chunk(8), Chunk(4), Window(1)], ids=str)
    def test_what_nobody_computed_is_not_cached_though_nothing_of_it_is_seen(self, span: Span) -> None:
        cache = cache_of(span)
        assert cache.admit(make_request(range(17), 1), cache.holding()) == 0
        leave_behind(cache, range(12))
        assert cache.admit(make_request(range(17), 1), cache.holding()) == 12

    def test_a_chunk_boundary_needs_nothing_before_it_where_another_group_has_it_all(self) -> None:
        cache = cache_of(Full(), Chunk(8))
        leave_behind(cache, range(16))
        probe = cache.holding()
        cache.admit(make_request(range(17), 1), probe)
        cache.release(probe)
        cache._groups[1].pool.forget(probe.links[3].key)
        assert cache.admit(make_request(range(17), 1), cache.holding()) == 16

    def test_the_longest_prefix_satisfies_every_group(self) -> None:
        cache = cache_of(Full(), Window(6))
        leave_behind(cache, range(16))
        probe = cache.holding()
        cache.admit(make_request(range(17), 1), probe)
        cache.release(probe)
        cache._groups[0].pool.forget(probe.links[3].key)  # full span: 12 at most
        cache._groups[1].pool.forget(probe.links[2].key)  # window: not 12, which needs blocks 1 and 2, nor 16
        holding = cache.holding()
        assert cache.admit(make_request(range(17), 1), holding) == 8
        assert [len(table) for table in holding.tables] == [2, 2]

    def test_a_group_that_was_content_is_asked_again(self) -> None:
        cache = cache_of(Window(6), Window(2))
        leave_behind(cache, range(16))
        probe = cache.holding()
        cache.admit(make_request(range(17), 1), probe)
        cache.release(probe)
        cache._groups[1].pool.forget(probe.links[3].key)  # the second: not 16, which needs block 3, but 12
        cache._groups[0].pool.forget(probe.links[1].key)  # the first: 16 is good, 12 is not: it needs blocks 1 and 2
        assert cache.admit(make_request(range(17), 1), cache.holding()) == 4

    def test_without_prefix_cache_nothing_is_found(self) -> None:
        cache = cache_of(Full(), prefix=False)
        leave_behind(cache, range(16))
        assert cache.use == (GroupUse(32, 0, 0),)
        assert cache.admit(make_request(range(17), 1), cache.holding()) == 0

    def test_reset_forgets_and_leaves_holders_alone(self) -> None:
        cache = cache_of(Full())
        leave_behind(cache, range(8))
        holding = cache.holding()
        compute(cache, make_request(range(50, 59), 1), holding, 9)
        cache.reset()
        assert cache.use == (GroupUse(32, 3, 0),)
        assert cache.admit(make_request(range(9), 1), cache.holding()) == 0
        cache.release(holding)
        assert cache.use == (GroupUse(32, 0, 0),)

    def test_discarded_blocks_are_found_by_nobody_even_those_given_back_before(self) -> None:
        cache = cache_of(Full(), Window(4))
        request, holding = make_request(range(16), 1), cache.holding()
        compute(cache, request, holding, 16)
        cache.discard(holding)
        assert cache.use == (GroupUse(32, 0, 0), GroupUse(32, 0, 0))


class TestRoutes:
    SHAPE = (MixtureShape(0, 4, 1),)

    def log(self, tokens: int) -> RouteLog:
        log = RouteLog(self.SHAPE)
        experts = np.arange(tokens, dtype=np.int16).reshape(-1, 1, 1) % 4
        log.write(0, experts, np.ones((tokens, 1, 1), np.float32), np.ones((tokens, 1), np.float32))
        return log

    def test_tokens_computed_again_overwrite_and_forget_nothing(self) -> None:
        log = self.log(40)
        log.write(4, np.full((2, 1, 1), 3, np.int16), np.ones((2, 1, 1), np.float32), np.zeros((2, 1), np.float32))
        assert len(log) == 40
        assert log.all().experts[:8, 0, 0].tolist() == [0, 1, 2, 3, 3, 3, 2, 3]
        assert log.all().margins[:8, 0].tolist() == [1, 1, 1, 1, 0, 0, 1, 1]

    @pytest.mark.parametrize("spans", [(Full(),), (Window(6), Full()), (Window(6),), (Chunk(8), Window(6))], ids=str)
    def test_a_hit_tells_how_the_prefix_was_routed(self, spans: tuple[Span, ...]) -> None:
        cache = cache_of(*spans, routed=True)
        first, second = cache.holding(), cache.holding()
        compute(cache, make_request(range(16), 1), first, 16, self.log(16))
        cache.release(first)
        assert cache.admit(make_request(range(17), 1), second) == 16
        routes = cache.prefix_routes(second)
        assert isinstance(routes, Routes)
        assert routes.experts[:, 0, 0].tolist() == [0, 1, 2, 3] * 4

    def test_without_a_full_group_one_window_must_have_every_block(self) -> None:
        cache = cache_of(Window(6), routed=True)
        first, second = cache.holding(), cache.holding()
        compute(cache, make_request(range(16), 1), first, 16, self.log(16))
        cache.release(first)
        cache._groups[0].pool.forget(first.links[0].key)
        assert cache.admit(make_request(range(17), 1), second) == 0
        assert cache.prefix_routes(second) is None


class TestRoom:
    def test_extend_takes_from_every_group_or_from_none(self) -> None:
        cache = Cache((CacheGroup(Full(), 9, 1), CacheGroup(Full(), 3, 1)), BLOCK, chunk=16)
        holding = cache.holding()
        assert not cache.extend(holding, 9)
        assert cache.use == (GroupUse(8, 0, 0), GroupUse(2, 0, 0))
        assert cache.extend(holding, 8)
        cache.check([holding])

    def test_an_allocation_that_fails_half_way_gives_all_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cache = cache_of(Full(), Window(4))
        pool, calls = cache._groups[1].pool, iter([1, None])
        take = pool.take

        def failing() -> int:
            if next(calls) is None:
                raise OutOfBlocks
            return take()

        monkeypatch.setattr(pool, "take", failing)
        holding = cache.holding()
        assert not cache.extend(holding, 8)
        assert holding.tables == [[], []]
        cache.check([holding])

    def test_admission_asks_for_room_for_the_whole_request(self) -> None:
        cache = cache_of(Full(), blocks=5)
        running = cache.holding()
        assert cache.extend(running, 4)
        assert cache.admit(make_request(range(13), 1), cache.holding()) is None
        assert cache.admit(make_request(range(12), 1), cache.holding()) == 0

    def test_admission_does_not_count_idle_cached_blocks_twice(self) -> None:
        cache = cache_of(Full(), blocks=5)
        leave_behind(cache, range(8))
        running = cache.holding()
        assert cache.extend(running, 8)  # now two blocks are free, and both are cached: 0 .. 7
        assert cache.admit(make_request(range(9), 1), cache.holding()) is None
        cache.release(running)
        assert cache.admit(make_request(range(9), 1), cache.holding()) == 8

    @pytest.mark.parametrize(
        ("span", "blocks", "capacity"),
        [
            (Full(), 9, 32),
            (Window(6), 7, sys.maxsize),  # 5 back, 16 ahead: 21 tokens lie in 6 blocks
            (Window(6), 6, 20),
            (Chunk(8), 8, sys.maxsize),
            (Chunk(8), 5, 16),
        ],
        ids=str,
    )
    def test_capacity(self, span: Span, blocks: int, capacity: int) -> None:
        assert cache_of(span, blocks=blocks).capacity == capacity
        assert cache_of(span, Full(), blocks=blocks).capacity == min(capacity, (blocks - 1) * BLOCK)

    @pytest.mark.parametrize(
        "span", [Window(1), Window(3), Window(4), Window(9), Chunk(1), Chunk(4), Chunk(7)], ids=str
    )
    @pytest.mark.parametrize("chunk", [1, 3, 16])
    def test_a_lone_request_never_holds_more_than_its_peak(self, span: Span, chunk: int) -> None:
        cache = cache_of(span, chunk=chunk)
        request, holding = make_request(range(60), 1), cache.holding()
        peak = 0
        for stop in [*range(chunk, 60, chunk), 60]:
            assert cache.extend(holding, stop)
            peak = max(peak, cache.use[0].used)
            compute(cache, request, holding, stop)
        assert peak <= cache._groups[0].peak(60)
