"""Attention of one query a sequence over pages of cache: read in place by the compiled kernel, else gathered and then
attended by the plain path. Both give the same, within the noise of float32 sums.

Shape letters: R rows, H query heads, K key heads, n pages a row, P tokens a page, D key dim, V value dim.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from model.config import Span
from model.kernels import flex, native
from model.kernels.attention import Scores, Sight, attend, make_sight

KINDS = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Pages:
    """Which cached positions each row sees.

    table (R, n) page ids, padded with page 0; starts (R,) position of each table's first entry, a multiple of P; first
    and last (R,) the visible positions, `last` being the query's own.
    """

    span: Span
    size: int
    table: Tensor
    starts: Tensor
    first: Tensor
    last: Tensor

    @cached_property
    def _positions(self) -> tuple[Tensor, Tensor]:
        return self.last[:, None], self.starts[:, None] + torch.arange(
            self.table.shape[1] * self.size, device=self.table.device
        )

    @cached_property
    def _unwritten(self) -> tuple[Tensor, Tensor]:
        """(row, place among the gathered positions) of everything behind a row's last position."""
        last, positions = self._positions
        row, place = (positions > last).nonzero(as_tuple=True)
        return row, place

    def clear(self, gathered: Tensor) -> Tensor:
        """The copy (R, K, n * P, D) of these pages, zero where nobody has written for the row."""
        if gathered.is_cuda:  # finding places would make the host wait for the card
            last, positions = self._positions
            return gathered.masked_fill_((positions > last)[:, None, :, None], 0)
        gathered.transpose(1, 2)[self._unwritten] = 0
        return gathered

    def part(self, rows: int) -> Pages:
        """The first rows alone: without those that only fill a step up to a size that kernels were built for."""
        of = self.table, self.starts, self.first, self.last
        return Pages(self.span, self.size, *(x[:rows] for x in of))

    @cached_property
    def _blocks(self) -> dict[int, flex.Blocks]:
        return {}

    def blocks(self, total: int) -> flex.Blocks:
        """The same for a kernel that sees a pool of `total` pages whole; built only where it runs."""
        if total not in self._blocks:
            self._blocks[total] = flex.blocks(self, total)
        return self._blocks[total]

    @cached_property
    def _sights(self) -> dict[torch.dtype, Sight]:
        return {}

    def sight(self, dtype: torch.dtype) -> Sight:
        """The same as a mask over gathered pages; built only where the plain path runs."""
        if dtype not in self._sights:
            self._sights[dtype] = make_sight(self.span, *self._positions, dtype)
        return self._sights[dtype]


class Scratch:
    """Memory that copies of pages take turns in: fresh memory for every copy would cost more than the copy."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def gather(self, name: str, pool: Tensor, table: Tensor) -> Tensor:
        """pool (pages, P, K, D), table (R, n) → (R, K, n * P, D), good until the next call with this name."""
        rows, count = table.shape
        size, heads, dim = pool.shape[1:]
        needed = table.numel() * pool[0].numel()
        if pool.is_cuda:  # PyTorch keeps a card's memory by itself
            copied = pool.flatten(1).index_select(0, table.flatten())
            return copied.view(rows, count * size, heads, dim).transpose(1, 2)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < needed or buffer.dtype != pool.dtype:
            buffer = self._buffers[name] = pool.new_empty(needed + needed // 4)
        copied = buffer[:needed].view(rows * count, -1)
        torch.index_select(pool.flatten(1), 0, table.flatten(), out=copied)
        return copied.view(rows, count * size, heads, dim).transpose(1, 2)


def decode(
    query: Tensor, keys: Tensor, values: Tensor | None, value_dim: int, pages: Pages, scores: Scores, scratch: Scratch
) -> Tensor:
    """query (R, H, D), keys (pages, P, K, D), values (pages, P, K, V) or None where they are the keys' first V numbers
    → (R, H, V)."""
    known = query.dtype in KINDS and query.device.type == "cpu" and scores.bias is None and scores.selection is None
    if known and native.library() is not None:
        return _compiled(query, keys, values, value_dim, pages, scores)
    if query.is_cuda and flex.fits(query, keys, value_dim, scores):
        return flex.decode(query, keys, values, value_dim, pages, scores)
    if len(query) < len(pages.table):
        pages = pages.part(len(query))
    return plain(query, keys, values, value_dim, pages, scores, scratch)


def plain(
    query: Tensor, keys: Tensor, values: Tensor | None, value_dim: int, pages: Pages, scores: Scores, scratch: Scratch
) -> Tensor:
    """Copy the pages together, then attend. What lies behind a row's last position may be no number: it counts as 0."""
    sight = pages.sight(query.dtype)
    gathered = pages.clear(scratch.gather("keys", keys, pages.table))
    seen = gathered[..., :value_dim] if values is None else pages.clear(scratch.gather("values", values, pages.table))
    return attend(query.unsqueeze(2), gathered, seen, sight, scores).squeeze(2)


def _compiled(
    query: Tensor, keys: Tensor, values: Tensor | None, value_dim: int, pages: Pages, scores: Scores
) -> Tensor:
    library = native.library()
    assert library is not None
    query = query.contiguous()
    rows, heads, dim = query.shape
    out = query.new_empty(rows, heads, value_dim)
    stored = keys if values is None else values
    shape = (ctypes.c_int64 * 8)(
        rows, heads, keys.shape[2], dim, value_dim, keys.shape[1], pages.table.shape[1], stored.shape[3]
    )
    sinks = None if scores.sinks is None else scores.sinks.float()
    library.dyno_paged_decode(
        ctypes.c_int(query.dtype == torch.bfloat16),
        shape,
        *map(_pointer, (query, keys, stored, pages.table, pages.starts, pages.first, pages.last)),
        ctypes.c_float(scores.scale),
        ctypes.c_float(scores.softcap or 0.0),
        _pointer(scores.slopes),
        _pointer(sinks),
        _pointer(out),
        ctypes.c_int(torch.get_num_threads()),
    )
    return out


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
