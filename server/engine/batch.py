"""One Step → the tensors of one forward pass: tokens, positions, where their cache entries live, how rows draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.config import Span
from model.kernels.attention import make_sight
from model.kernels.paged import Pages
from model.moe import Loads
from model.sampling import Draw, Edits, uniform
from server.engine.constraint import members
from server.engine.paged import Decode, GroupView, Prefill
from server.engine.request import Sampling
from server.engine.step import Pick, Row, Step

NOTHING = -1  # position of a padded or freed key


def tokens_of(step: Step) -> Tensor:
    """Token ids of all rows, end to end (T,)."""
    ids: list[int] = []
    for row in step.rows:
        request = row.request
        if row.count == 1 and row.start >= len(request.prompt):
            ids.append(request.outputs[row.start - len(request.prompt)])
        else:
            ids += row.tokens
    return torch.tensor(ids)


def positions_of(step: Step) -> Tensor:
    if all(row.count == 1 for row in step.rows):
        return torch.tensor([row.start for row in step.rows])
    return torch.from_numpy(np.concatenate([np.arange(row.start, row.start + row.count) for row in step.rows]))


def select(step: Step) -> Tensor:
    """Indices, among the step's tokens, of those whose logits are computed: all that are wanted, and of a row that
    wants none the last, so that a failing row is found at once."""
    stops = np.cumsum([row.count for row in step.rows])
    widths = [len(row.wanted) or 1 for row in step.rows]
    if len(widths) == sum(widths):
        return torch.from_numpy(stops - 1)
    return torch.from_numpy(np.concatenate([np.arange(b - n, b) for b, n in zip(stops, widths, strict=True)]))


def selected(step: Step) -> list[tuple[int, int]]:
    """(row, position) of each token that `select` names."""
    found: list[tuple[int, int]] = []
    for index, row in enumerate(step.rows):
        stop = row.start + row.count
        found += [(index, position) for position in row.wanted or range(stop - 1, stop)]
    return found


def group_view(step: Step, group: int, span: Span, page_size: int, dtype: torch.dtype) -> GroupView:
    """Places of a step's tokens in one cache group."""
    offset, slots = 0, []
    decodes: list[tuple[int, Row]] = []  # one token each
    prefills: list[Prefill] = []
    for row in step.rows:
        table = row.tables[group]
        if row.count == 1:
            decodes.append((offset, row))
            slots.append(np.array([table[row.start // page_size] * page_size + row.start % page_size]))
        else:
            slots.append(_slots(table, row, page_size))
            if row.drafts:  # few tokens, which read their pages in place like single ones
                decodes += ((offset + i, row._replace(start=row.start + i, count=1)) for i in range(row.count))
            else:
                prefills.append(_prefill(offset, row, table, span, page_size, dtype))
        offset += row.count
    decode = _decode(decodes, group, span, page_size) if decodes else None
    return GroupView(torch.from_numpy(np.concatenate(slots)), decode, tuple(prefills))


def _slots(table: tuple[int, ...], row: Row, page_size: int) -> np.ndarray:
    positions = np.arange(row.start, row.start + row.count)
    return np.asarray(table)[positions // page_size] * page_size + positions % page_size


def _decode(rows: list[tuple[int, Row]], group: int, span: Span, page_size: int) -> Decode:
    """Pages from the first visible one on, padded to the longest row with page 0."""
    first = [span.first_visible(row.start) for _, row in rows]
    tables = [
        row.tables[group][f // page_size : row.start // page_size + 1] for f, (_, row) in zip(first, rows, strict=True)
    ]
    width = max(map(len, tables))
    table = torch.tensor([(*pages, *((0,) * (width - len(pages)))) for pages in tables])
    visible = torch.tensor(first)
    last = torch.tensor([row.start for _, row in rows])
    pages = Pages(span, page_size, table, visible // page_size * page_size, visible, last)
    return Decode(torch.tensor([i for i, _ in rows]), pages)


def _prefill(offset: int, row: Row, table: tuple[int, ...], span: Span, page_size: int, dtype: torch.dtype) -> Prefill:
    stop = row.start + row.count
    first = span.first_visible(row.start) // page_size
    fresh = row.start == 0
    pages = torch.tensor([table[first : (stop - 1) // page_size + 1]])
    query = torch.arange(row.start, stop)[None]
    keys = query if fresh else torch.arange(first * page_size, stop)[None]
    return Prefill(offset, offset + row.count, pages, make_sight(span, query, keys, dtype, triangle=fresh), fresh)


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


def edits_of(picks: Sequence[Pick]) -> Edits:
    """Penalties, biases and forbidden end tokens of every pick, as changes to single logits."""
    edits = Edits([], [], [], [], [], [])
    for row, pick in enumerate(picks):
        sampling = pick.request.sampling
        if sampling.logit_bias:
            _extend(edits, row, [t for t, _ in sampling.logit_bias], [b for _, b in sampling.logit_bias])
        if pick.number < sampling.min_tokens and pick.request.constraint is None:
            _extend(edits, row, list(sampling.stop_ids), [float("-inf")] * len(sampling.stop_ids))
        _penalise(edits, row, pick, sampling)
    return edits


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
            others[[end for end in sampling.stop_ids if end < vocab]] = False
            allowed = others if others.any() else allowed
        out[row] = ~allowed
    return out


def _penalise(edits: Edits, row: int, pick: Pick, sampling: Sampling) -> None:
    if pick.number > 0 and (sampling.presence_penalty or sampling.frequency_penalty):
        ids, counts = np.unique(pick.outputs, return_counts=True)
        _extend(edits, row, ids.tolist(), (-sampling.presence_penalty - sampling.frequency_penalty * counts).tolist())
    if sampling.repetition_penalty != 1:
        seen = list({*pick.request.prompt, *pick.outputs})
        edits.repeated_rows.extend([row] * len(seen))
        edits.repeated_tokens.extend(seen)
        edits.repetition.extend([sampling.repetition_penalty] * len(seen))


def _extend(edits: Edits, row: int, tokens: list[int], bias: list[float]) -> None:
    edits.rows.extend([row] * len(tokens))
    edits.tokens.extend(tokens)
    edits.bias.extend(bias)
