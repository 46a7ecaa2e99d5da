"""The cache of several groups under any order of operations: no block is lost, none is held that nobody sees."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from model.cache import Carried
from model.config import Chunk, Full, Span, Window
from server.engine import batch
from server.engine.holding import Holding
from server.engine.request import Request
from server.engine.step import CacheGroup, Row, Step
from server.engine.tables import Cache
from tests.fakes import make_request

BLOCK, EVERY = 4, 3


class CacheMachine(RuleBasedStateMachine):
    """Requests come, grow, are preempted, fail and end in any order. Prompts are few, so prefixes are shared."""

    groups: ClassVar[tuple[Span | Carried, ...]]

    def __init__(self) -> None:
        super().__init__()
        groups = tuple(CacheGroup(span, 10, 1, EVERY if isinstance(span, Carried) else 1) for span in self.groups)
        self.states: dict[int, list[int]] = {}
        self.cache = Cache(groups, BLOCK, chunk=8)
        self.live: list[tuple[Request, Holding]] = []

    @rule(alike=st.integers(0, 19), other=st.integers(1, 3))
    def arrive(self, alike: int, other: int) -> None:
        prompt = [0] * alike + [1] * other
        request, holding = make_request(prompt, 40), self.cache.holding()
        before = self.cache.use
        cached = self.cache.admit(request, holding)
        if cached is None:
            assert self.cache.use == before
            return
        assert cached % BLOCK == 0 and cached < len(prompt)
        request.num_computed = cached
        self.live.append((request, holding))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 8))
    def compute_some(self, data: st.DataObject, count: int) -> None:
        request, holding = data.draw(st.sampled_from(self.live))
        stop = min(request.num_computed + count, request.num_tokens)
        before = self.cache.use, [list(table) for table in holding.tables]
        if self.cache.extend(holding, stop):
            self._carry(request, holding, stop)
            request.num_computed = stop
            self.cache.computed(request, holding, None)
            if stop == request.num_tokens:
                request.outputs.append(sum(request.prompt) % 2)
        else:
            assert before == (self.cache.use, holding.tables)

    def _carry(self, request: Request, holding: Holding, stop: int) -> None:
        """What a runner would do with states: a page has that of some tokens, and of no others than are said to be."""
        for index, span in enumerate(self.groups):
            if isinstance(span, Carried):
                row = Row(request, request.num_computed, stop - request.num_computed, holding.frozen)
                moves = batch.moves(batch.layout_of(Step(0, (row,))), index, BLOCK, EVERY)
                assert not row.start or self.states[int(moves.before[0])] == request.tokens(0, row.start)
                assert moves.after[-1], "the next token goes on from somewhere"
                for token in np.flatnonzero(moves.after).tolist():
                    self.states[int(moves.after[token])] = request.tokens(0, row.start + token + 1)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), failed=st.booleans())
    def leave(self, data: st.DataObject, failed: bool) -> None:
        at = data.draw(st.integers(0, len(self.live) - 1))
        _, holding = self.live.pop(at)
        (self.cache.discard if failed else self.cache.release)(holding)

    @rule()
    def reset(self) -> None:
        self.cache.reset()

    @invariant()
    def books_balance(self) -> None:
        self.cache.check(holding for _, holding in self.live)

    @invariant()
    def what_is_still_visible_is_held(self) -> None:
        for request, holding in self.live:
            for table, group in zip(holding.tables, self.cache._groups, strict=True):
                for position in range(group.span.first_visible(request.num_computed), request.num_computed):
                    assert table[position // BLOCK] != 0
                before = group.span.first_visible(request.num_computed) // BLOCK
                assert not any(table[:before]), "a block nobody sees is still held"


@pytest.mark.parametrize(
    "spans",
    [(Full(),), (Full(), Window(6)), (Chunk(8), Window(3)), (Full(), Carried()), (Carried(),), (Window(6), Carried())],
    ids=str,
)
def test_any_order_of_operations(spans: tuple[Span | Carried, ...]) -> None:
    class Machine(CacheMachine):
        groups = spans

    run_state_machine_as_test(Machine)
