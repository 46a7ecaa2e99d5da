"""Memory of what recurrent mixers carry, in slots, and the view of it that one step gets.

A page is a block of positions, as in the cache of attention: it holds the state after the last of them that is
computed. A step that goes on within a block writes to a spare slot, which becomes the page's own when the step is done.
Until then what it started from is there, so that a step which failed can be run again.

    page 3: slot 3 ──step──▶ slot 3 (before), slot 9 (after) ──done──▶ slot 9, and slot 3 is spare
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.config import Recurrent
from model.kernels import recurrence
from model.kernels.recurrence import Fed, Mixing, State


@dataclass(frozen=True, slots=True)
class Moves:
    """How the rows of a step move on. R rows, T tokens.

    starts (R + 1,): row r has tokens [starts[r], starts[r + 1]) of the step; before (R,): the page or slot of the state
    it starts from, 0 for none; after (T,): where the state after each token is kept, 0 for nowhere.
    """

    starts: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def alike(self) -> Iterator[tuple[np.ndarray, int]]:
        """Rows that go through the same motions, as (rows, tokens of each): all of one token, and every other alone."""
        counts = np.diff(self.starts)
        if len(single := np.flatnonzero(counts == 1)):
            yield single, 1
        for row in np.flatnonzero(counts > 1).tolist():
            yield np.array([row]), int(counts[row])


class StateCache:
    """Slots (pages + rows, numbers) of each recurrent layer, float32. Slot 0 stays zero: the state before any token."""

    def __init__(self, values: Sequence[Recurrent], pages: int, rows: int, device: torch.device | None = None) -> None:
        """rows: most that one step has."""
        self.slots = [torch.zeros(pages + rows, value.state_numbers, device=device) for value in values]
        self.slot = np.arange(pages)  # of each page, as of the last step that was done
        self._spare = list(range(pages, pages + rows))
        self._moving: dict[int, int] = {}  # pages whose new state is in another slot, until the step is done

    def view(self, pages: Moves) -> StateView:
        """The view of one step, given in pages. That of a step before which was not done is undone."""
        self._spare += self._moving.values()
        self._moving = {}
        within = set(pages.before.tolist()).intersection(pages.after.tolist()) - {0}
        self._moving = {page: self._spare.pop() for page in within}
        written = self.slot.copy()
        written[list(self._moving)] = list(self._moving.values())
        return StateView(self, pages, Moves(pages.starts, self.slot[pages.before], written[pages.after]))

    def done(self) -> None:
        """The step is done: what it wrote is what the next one starts from."""
        for page, slot in self._moving.items():
            self._spare.append(int(self.slot[page]))
            self.slot[page] = slot
        self._moving = {}


class StateView:
    """What the recurrent mixers see in one step: how its rows move on, in pages and in slots."""

    def __init__(self, cache: StateCache, pages: Moves, moves: Moves) -> None:
        self.cache, self.pages, self.moves = cache, pages, moves

    def carry(self, layer: int, mixing: Mixing, fed: Fed) -> Tensor:
        """As a CacheView."""
        slots, moves = self.cache.slots[layer], self.moves
        if mixing.compiled is not None:
            return mixing.compiled(slots, moves, fed)
        out = fed.mixed.new_empty(len(fed.mixed), mixing.value.inner)
        for rows, length in moves.alike():
            tokens = moves.starts[rows][:, None] + np.arange(length)
            kept = np.flatnonzero(moves.after[tokens[0]]).tolist()
            at = torch.from_numpy(tokens.ravel()).to(out.device)
            state = State.of(mixing.value, slots[torch.from_numpy(moves.before[rows]).to(out.device)])
            done, states = recurrence.carry(mixing, fed.of(at, len(rows), length), state, kept)
            out[at] = done.flatten(0, 1)
            for index, after in zip(kept, states, strict=True):
                slots[torch.from_numpy(moves.after[tokens[:, index]]).to(out.device)] = after.numbers
        return out
