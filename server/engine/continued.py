"""The inputs of a step that only goes on with the rows of the one before, a token each: most steps do, and of what they
need little is new. Whatever else a step is, server/engine/batch.py builds it, and holds for this one too."""

from __future__ import annotations

import numpy as np

from model.config import Full
from model.kernels.paged import Pages
from model.paged import Decode, GroupView, PagedView
from model.states import Moves, StateView
from model.transformer import StepInput
from server.engine.batch import ids_of
from server.engine.step import Row, Step


class Continued:
    """Keeps the inputs of the last step. Their arrays are written in place, so that a step's inputs are good until the
    next one is asked for."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._rows: tuple[Row, ...] = ()
        self._inputs: StepInput | None = None
        self._positions: list[np.ndarray] = []  # all that go up by one a step, each memory once

    def remember(self, step: Step, inputs: StepInput) -> StepInput:
        """These are the inputs of a step that was built; returns them."""
        single = len(inputs.tokens) == len(step.rows)
        followable = single and inputs.loads is None and inputs.memory is None and _looks_back_alone(inputs)
        self._rows, self._inputs = (step.rows, inputs) if followable else ((), None)
        if followable:
            _, pages = _places(inputs)
            moving = [part for part in (inputs.positions, pages.last, pages.new) if part is not None]
            self._positions = list({part.data_ptr(): part.numpy() for part in moving}.values())
        return inputs

    def follow(self, step: Step) -> StepInput | None:
        """The inputs of this step; None where it does not go on with the rows of the last, or has no room in them."""
        inputs, rows, size = self._inputs, step.rows, self._page_size
        if inputs is None or len(rows) != len(self._rows):
            return None
        group, pages = _places(inputs)
        table, slots = pages.table.numpy(), group.slots.numpy()
        turned: list[int] = []  # rows that look at other pages than before
        for index, (row, before) in enumerate(zip(rows, self._rows, strict=True)):
            if row.request is not before.request or row.start != before.start + 1 or row.count != 1:
                return None
            if row.tables is not before.tables or row.start % size == 0:
                if row.start // size >= table.shape[1]:
                    return None
                turned.append(index)
        inputs.tokens.numpy()[:] = ids_of(rows)
        slots += 1
        for positions in self._positions:
            positions += 1
        for index in turned:
            own, (page, offset) = rows[index].tables[0], divmod(rows[index].start, size)
            table[index, : page + 1] = own[: page + 1]
            slots[index] = table[index, page] * size + offset
        self._rows, self._inputs = rows, _anew(inputs, _states(inputs, rows, turned, size))
        return self._inputs


def _looks_back_alone(inputs: StepInput) -> bool:
    """Whether each token by itself, none of a prompt, sees all that came before: then there is one group, which gives
    nothing back as a row goes on (but for blocks of wrong guesses, and the row has new tables then). States may be
    carried beside it."""
    view = inputs.cache
    assert isinstance(view, PagedView)
    if len(view.groups) != 1 or view.groups[0].stretches:
        return False
    return isinstance(_places(inputs)[1].span, Full)


def _places(inputs: StepInput) -> tuple[GroupView, Pages]:
    """Of the only group of a step of single tokens."""
    view = inputs.cache
    assert isinstance(view, PagedView)
    (group,) = view.groups
    assert group.decode is not None
    return group, group.decode.pages


def _states(inputs: StepInput, rows: tuple[Row, ...], turned: list[int], size: int) -> StateView | None:
    """Where the states of the last step go on: from where they were left, but as its tables say where a row has new
    ones."""
    view = inputs.cache
    assert isinstance(view, PagedView)
    if view.states is None:
        return None
    left = view.states.pages
    before, after = left.after.copy(), left.after.copy()
    for index in turned:
        start, own = rows[index].start, rows[index].tables[1]
        before[index], after[index] = own[(start - 1) // size], own[start // size]
    return view.states.cache.view(Moves(left.starts, before, after))


def _anew(inputs: StepInput, states: StateView | None) -> StepInput:
    """The same arrays, of which nothing is known yet that follows from their numbers."""
    assert isinstance(inputs.cache, PagedView)
    group, own = _places(inputs)
    assert group.decode is not None
    pages = Pages(own.span, own.size, own.table, own.starts, own.first, own.last, own.new)
    view = GroupView(group.page_size, group.slots, Decode(group.decode.tokens, pages), (), group.firsts)
    return StepInput(inputs.tokens, inputs.positions, PagedView(inputs.cache.cache, (view,), states))
