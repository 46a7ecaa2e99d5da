"""The inputs of a step that only goes on with the rows of the one before, a token each: most steps do, and of what they
need little is new. Whatever else a step is, server/engine/batch.py builds it, and holds for this one too."""

from __future__ import annotations

import numpy as np

from model.config import Full
from model.kernels.paged import Pages
from model.transformer import StepInput
from server.engine.batch import ids_of
from server.engine.paged import Decode, GroupView, PagedView
from server.engine.step import Row, Step


class Continued:
    """Keeps the inputs of the last step. Their arrays are written in place, so that a step's inputs are good until the
    next one is asked for."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._rows: tuple[Row, ...] = ()
        self._inputs: StepInput | None = None
        self._tables: list[np.ndarray] = []
        self._slots: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []  # all that go up by one a step, each memory once

    def remember(self, step: Step, inputs: StepInput) -> StepInput:
        """These are the inputs of a step that was built; returns them."""
        view, self._inputs = inputs.cache, None
        alone = inputs.select is None and inputs.loads is None and inputs.memory is None
        if alone and isinstance(view, PagedView) and len(inputs.tokens) == len(step.rows):
            pages = [group.decode.pages for group in view.groups if group.decode is not None]
            if pages and len(pages) == len(view.groups) and all(isinstance(own.span, Full) for own in pages):
                self._rows, self._inputs = step.rows, inputs
                self._tables = [own.table.numpy() for own in pages]
                self._slots = [group.slots.numpy() for group in view.groups]
                moving = [inputs.positions, *(own.last for own in pages), *(own.new for own in pages)]
                found = {part.data_ptr(): part.numpy() for part in moving if part is not None}
                self._positions = list(found.values())
        return inputs

    def follow(self, step: Step) -> StepInput | None:
        """The inputs of this step; None where it does not go on with the rows of the last, or has no room in them."""
        inputs, rows, size = self._inputs, step.rows, self._page_size
        if inputs is None or len(rows) != len(self._rows):
            return None
        width = min(table.shape[1] for table in self._tables)
        turned: list[int] = []  # rows that look at other pages than before
        for index, (row, before) in enumerate(zip(rows, self._rows, strict=True)):
            if row.request is not before.request or row.start != before.start + 1 or row.count != 1:
                return None
            if row.tables is not before.tables or row.start % size == 0:
                if row.start // size >= width:
                    return None
                turned.append(index)
        inputs.tokens.numpy()[:] = ids_of(rows)
        for positions in self._positions:
            positions += 1
        for group, (table, slots) in enumerate(zip(self._tables, self._slots, strict=True)):
            slots += 1
            for index in turned:
                row = rows[index]
                page, offset = divmod(row.start, size)
                table[index, : page + 1] = row.tables[group][: page + 1]
                slots[index] = table[index, page] * size + offset
        assert isinstance(inputs.cache, PagedView)
        view = PagedView(inputs.cache.cache, tuple(map(_anew, inputs.cache.groups)))
        self._rows, self._inputs = rows, StepInput(inputs.tokens, inputs.positions, view)
        return self._inputs


def _anew(group: GroupView) -> GroupView:
    """The same places, of which nothing is known yet that follows from their numbers."""
    assert group.decode is not None
    own = group.decode.pages
    pages = Pages(own.span, own.size, own.table, own.starts, own.first, own.last, own.new)
    return GroupView(group.page_size, group.slots, Decode(group.decode.tokens, pages), (), group.firsts)
