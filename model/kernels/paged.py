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
from model.kernels.native import address

KINDS = (torch.float32, torch.bfloat16)
_TABLES = ("pages", "starts", "firsts", "lasts")


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
    def call(self) -> _Call:
        """The call of the compiled kernel for these pages; every layer fills in the rest."""
        tables = (address(t) for t in (self.table, self.starts, self.first, self.last))
        return _Call(page_size=self.size, table_width=self.table.shape[1], **dict(zip(_TABLES, tables, strict=True)))

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


@dataclass(frozen=True, slots=True)
class Entries:
    """What the tokens of a step leave in the pools: key (T, K, D) and value (T, K, V), None where it lies in the key,
    at flat slots (page * P + offset)."""

    key: Tensor
    value: Tensor | None
    slots: Tensor

    def store(self, keys: Tensor, values: Tensor | None) -> None:
        """Write them into pools (pages, P, K, …)."""
        keys.flatten(0, 1).index_copy_(0, self.slots, self.key)
        if values is not None:
            assert self.value is not None
            values.flatten(0, 1).index_copy_(0, self.slots, self.value)


def decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor | None,
    value_dim: int,
    pages: Pages,
    scores: Scores,
    scratch: Scratch,
    fresh: Entries | None = None,
) -> Tensor:
    """query (R, H, D), keys (pages, P, K, D), values (pages, P, K, V) or None where they are the keys' first V numbers
    → (R, H, V). fresh: what the same rows add to the pools before."""
    known = query.dtype in KINDS and query.device.type == "cpu" and scores.bias is None and scores.selection is None
    if known and native.library() is not None:
        return _compiled(query, keys, values, value_dim, pages, scores, fresh)
    if fresh is not None:
        fresh.store(keys, values)
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


class _Call(ctypes.Structure):
    """native/native.cpp: PagedCall."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "heads", "kv_heads", "key_dim", "value_dim", "page_size")),
        *((name, ctypes.c_int64) for name in ("table_width", "stored_dim", "query_stride")),
        *((name, ctypes.c_void_p) for name in ("pages", "starts", "firsts", "lasts", "slopes", "sinks")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value")),
        *((name, ctypes.c_int64) for name in ("key_stride", "value_stride")),
        *((name, ctypes.c_void_p) for name in ("slots", "keys", "values", "out")),
    )


def _compiled(
    query: Tensor,
    keys: Tensor,
    values: Tensor | None,
    value_dim: int,
    pages: Pages,
    scores: Scores,
    fresh: Entries | None,
) -> Tensor:
    library = native.library()
    assert library is not None
    query = _by_rows(query)
    rows, heads, dim = query.shape
    out = query.new_empty(rows, heads, value_dim)
    call: _Call = pages.call
    call.rows, call.heads, call.kv_heads, call.key_dim, call.value_dim = rows, heads, keys.shape[2], dim, value_dim
    stored = keys if values is None else values
    call.stored_dim, call.query_stride = stored.shape[3], query.stride(0)
    sinks = None if scores.sinks is None else scores.sinks.float()
    call.slopes, call.sinks = address(scores.slopes), address(sinks)
    call.scale, call.softcap = scores.scale, scores.softcap or 0.0
    call.query, call.keys, call.values, call.out = map(address, (query, keys, stored, out))
    call.slots = None
    if fresh is not None:
        key, value = _by_rows(fresh.key), None if values is None or fresh.value is None else _by_rows(fresh.value)
        call.key, call.value, call.slots = address(key), address(value), address(fresh.slots)
        call.key_stride, call.value_stride = key.stride(0), 0 if value is None else value.stride(0)
    library.dyno_paged_decode(int(query.dtype == torch.bfloat16), ctypes.byref(call), torch.get_num_threads())
    return out


def _by_rows(x: Tensor) -> Tensor:
    """x (T, heads, dim) with the numbers of a token beside each other; tokens may be further apart."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
