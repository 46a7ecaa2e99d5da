"""One Step → the tensors of one forward pass: tokens, positions, where their cache entries live, how rows draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.config import Span
from model.kernels.paged import Pages, Stretch
from model.moe import Loads
from model.paged import Decode, GroupView
from model.sampling import Draw, uniform
from model.states import Moves
from server.engine.constraint import members
from server.engine.step import Pick, Row, Step


def tokens_of(step: Step) -> Tensor:
    """Token ids of all rows, end to end (T,)."""
    return torch.from_numpy(np.array(ids_of(step.rows), np.int64))


def ids_of(rows: Sequence[Row]) -> list[int]:
    ids: list[int] = []
    for row in rows:
        request = row.request
        if row.count == 1 and row.start >= len(request.prompt):
            ids.append(request.outputs[row.start - len(request.prompt)])
        else:
            ids += row.tokens
    return ids


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a step lie end to end. R rows, T tokens.

    rows of 1, 3 and 1 tokens: counts 1 3 1, ends 1 4 5 (R,); row 0 1 1 1 2 (T,); positions 9 0 1 2 7 (T,)

    alone (R,): whether a row's tokens are attended one by one, as outputs and drafts are. Those of a prompt are not,
    however many of them a step takes: the two ways round differently, and where a prompt is cut is others' doing. Only
    where steps are replayed a single one is: there the library's kernels round by the number of rows anyway.
    """

    rows: tuple[Row, ...]
    counts: np.ndarray
    ends: np.ndarray
    row: np.ndarray
    positions: np.ndarray
    alone: np.ndarray

    @property
    def single(self) -> bool:
        """Whether every row has one token."""
        return len(self.row) == len(self.rows)

    def each(self, of_rows: np.ndarray) -> np.ndarray:
        """What is known of rows (R,), for their tokens (T,)."""
        return of_rows if self.single else of_rows[self.row]

    def first(self, of_tokens: np.ndarray) -> np.ndarray:
        """What is known of tokens (T,), of the first of each row (R,)."""
        return of_tokens if self.single else of_tokens[self.ends - self.counts]

    def last(self, of_tokens: np.ndarray) -> np.ndarray:
        """The same of the last of each row."""
        return of_tokens if self.single else of_tokens[self.ends - 1]


def layout_of(step: Step, *, replayed: bool = False) -> Layout:
    starts = np.array([row.start for row in step.rows])
    counts = np.array([row.count for row in step.rows])
    row = np.arange(len(counts))
    ends = np.cumsum(counts)
    alone = np.array([row.feeds_back or (replayed and row.count == 1) for row in step.rows])
    if ends[-1] == len(counts):
        return Layout(step.rows, counts, ends, row, starts, alone)
    row = np.repeat(row, counts)
    return Layout(step.rows, counts, ends, row, (starts - ends + counts)[row] + np.arange(len(row)), alone)


def select(layout: Layout) -> Tensor | None:
    """Indices, among the step's tokens, of those whose logits are computed: all that are wanted, and of a row that
    wants none the last, so that a failing row is found at once. None: every token's."""
    if layout.single:
        return None
    widths = np.array([len(row.wanted) or 1 for row in layout.rows])
    last = np.repeat(layout.ends - np.cumsum(widths), widths)
    return torch.from_numpy(last + np.arange(len(last)))


def selected(step: Step) -> list[tuple[int, int]]:
    """(row, position) of each token that `select` names."""
    found: list[tuple[int, int]] = []
    for index, row in enumerate(step.rows):
        stop = row.start + row.count
        found += [(index, position) for position in row.wanted or range(stop - 1, stop)]
    return found


@dataclass(frozen=True, slots=True)
class Paging:
    """What places in one cache group have in common, whatever the step: its span, the tokens of a page, and of what
    type and where masks are made; all else is the host's."""

    span: Span
    size: int
    dtype: torch.dtype
    device: torch.device | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of a step are in one cache group. visible (T,): the first position that each sees; table (R, n):
    the pages of each row from `lowest` (R,) on, the first that it looks at, padded with page 0."""

    layout: Layout
    paging: Paging
    visible: np.ndarray
    lowest: np.ndarray
    table: np.ndarray

    @classmethod
    def of(cls, layout: Layout, group: int, paging: Paging) -> Places:
        visible = np.array([paging.span.first_visible(position) for position in layout.positions.tolist()])
        lowest = layout.first(visible) // paging.size
        table = _table(layout, group, lowest, layout.last(layout.positions) // paging.size + 1)
        return cls(layout, paging, visible, lowest, table)

    @property
    def slots(self) -> Tensor:
        """Where each token's entry goes (T,): page * P + offset."""
        pages, offsets = np.divmod(self.layout.positions, self.paging.size)
        found = self.table[self.layout.row, pages - self.layout.each(self.lowest)]
        return torch.from_numpy(found * self.paging.size + offsets)

    @property
    def decode(self) -> Decode | None:
        """The tokens that read pages in place, each with its row's pages; None when there are none."""
        layout, size, table, visible = self.layout, self.paging.size, self.table, self.visible
        tokens, row, positions = np.arange(len(layout.row)), layout.row, layout.positions
        if not (layout.single and layout.alone.all()):
            tokens = np.flatnonzero(layout.each(layout.alone))
            if not len(tokens):
                return None
            row, positions, visible = row[tokens], positions[tokens], visible[tokens]
            width = (positions // size - self.lowest[row]).max() + 1  # rows with many tokens may have had more
            table = np.ascontiguousarray(table[row, :width])
        places = (table, self.lowest[row] * size, visible, positions, layout.first(layout.positions)[row])
        return Decode(torch.from_numpy(tokens), Pages(self.paging.span, size, *map(torch.from_numpy, places)))

    def stretch(self, index: int) -> Stretch:
        """All of a row's tokens, attended together."""
        row, end, paging = self.layout.rows[index], int(self.layout.ends[index]), self.paging
        base = int(self.lowest[index]) * paging.size
        count = (row.start + row.count - 1 - base) // paging.size + 1
        pages = torch.from_numpy(self.table[index : index + 1, :count])
        return Stretch(end - row.count, end, row.start, base, pages, paging.span, paging.dtype, paging.device)


def group_view(layout: Layout, group: int, paging: Paging) -> GroupView:
    """What attention is told of a step in one cache group."""
    places = Places.of(layout, group, paging)
    stretches = tuple(map(places.stretch, np.flatnonzero(~layout.alone).tolist()))
    return GroupView(paging.size, places.slots, places.decode, stretches, torch.from_numpy(places.visible))


def moves(layout: Layout, group: int, size: int, every: int) -> Moves:
    """How rows carry their states on, in pages of `size` positions: from that of the position before to those of the
    row's last position, of the last before it that ends a page, and of all that end each `every`th page."""
    starts, firsts = layout.ends - layout.counts, layout.first(layout.positions)
    behind = (firsts + layout.counts - 1) % size + 1  # tokens of the last page
    ends = (layout.positions + 1) % (size * every) == 0
    ends[(layout.ends - 1 - behind)[behind < layout.counts]] = True
    ends[layout.ends - 1] = True
    before = np.zeros(len(layout.rows), np.int64)
    for index in np.flatnonzero(firsts).tolist():
        before[index] = layout.rows[index].tables[group][(firsts[index] - 1) // size]
    after = np.zeros(len(layout.row), np.int64)
    for token in np.flatnonzero(ends).tolist():
        after[token] = layout.rows[layout.row[token]].tables[group][layout.positions[token] // size]
    return Moves(np.append(starts, layout.ends[-1]), before, after)


def _table(layout: Layout, group: int, lowest: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(R, most pages) entries [lowest, end) of each row's table, padded with page 0."""
    bounds = zip(layout.rows, lowest.tolist(), ends.tolist(), strict=True)
    pages = np.concatenate([row.tables[group][low:end] for row, low, end in bounds])
    widths = ends - lowest
    rows, width = len(widths), int(widths.max())
    if len(pages) == rows * width:
        return pages.reshape(rows, width)
    table = np.zeros((rows, width), np.int64)
    table[np.arange(width) < widths[:, None]] = pages
    return table


def loads_of(step: Step, experts: int, mixtures: int) -> Loads:
    """How earlier tokens of each row chose, for routers with a capacity."""
    sequence = np.repeat(np.arange(len(step.rows)), [row.count for row in step.rows])
    prior = np.zeros((mixtures, len(step.rows), experts), dtype=np.int64)
    for i, row in enumerate(step.rows):
        if row.prior is not None:
            prior[:, i] = row.prior
    return Loads(torch.from_numpy(sequence), torch.from_numpy(prior))


def draw_of(picks: Sequence[Pick]) -> Draw:
    """How the token after each pick is drawn: by seed and number of the output, whatever else is in the step."""
    all_sampling = [pick.request.sampling for pick in picks]
    return Draw(
        [s.temperature for s in all_sampling],
        [s.top_k for s in all_sampling],
        [s.top_p for s in all_sampling],
        [s.min_p for s in all_sampling],
        [uniform(s.seed, p.number) if s.temperature > 0 else 0.0 for s, p in zip(all_sampling, picks, strict=True)],
    )


def barred(picks: Sequence[Pick], vocab: int) -> np.ndarray | None:
    """(picks, vocab) flags: tokens that constraints keep from being drawn; None where nobody has a constraint.

    End tokens within the first min_tokens are among them, unless nothing else is left.
    """
    if all(pick.request.constraint is None for pick in picks):
        return None
    out = np.zeros((len(picks), vocab), np.bool_)
    for row, pick in enumerate(picks):
        constraint, sampling = pick.request.constraint, pick.request.sampling
        if constraint is None:
            continue
        allowed = members(constraint.allowed(pick.drafted), vocab)
        if pick.number < sampling.min_tokens:
            others = allowed.copy()
            others[list(sampling.stop_ids)] = False
            allowed = others if others.any() else allowed
        out[row] = ~allowed
    return out
