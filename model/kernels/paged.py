"""Attention over pages of cache: read in place by a kernel (the compiled one, on a GPU Triton's or FlexAttention), else
gathered and then attended by the plain path. All give the same, within the noise of float32 sums.

Shape letters: T tokens of a step, R rows (tokens that stand alone), H query heads, K key heads, n pages a row, P tokens
a page, D key dim, V value dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from model.config import Span
from model.kernels import flex, gpu, inplace
from model.kernels.attention import Scores, Sight, attend, make_sight


@dataclass(frozen=True)
class Pages:
    """Which cached positions each row sees.

    table (R, n) page ids, padded with page 0; starts (R,) position of each table's first entry, a multiple of P; first
    and last (R,) the visible positions, `last` being the query's own; new (R,) the first position of the same sequence
    that the step itself adds, those up to the query's own being the rows before it. None where rows add nothing.
    """

    span: Span
    size: int
    table: Tensor
    starts: Tensor
    first: Tensor
    last: Tensor
    new: Tensor | None = None

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
        """The copy (R, K, n * P, D) of these pages, set to 0 in place where nobody has written for the row."""
        if gathered.is_cuda:  # finding places would make the host wait for the GPU
            last, positions = self._positions
            return gathered.masked_fill_((positions > last)[:, None, :, None], 0)
        gathered.transpose(1, 2)[self._unwritten] = 0
        return gathered

    def part(self, rows: int) -> Pages:
        """The pages of the first rows, without those that only fill a step up to a size that kernels were built for."""
        of = self.table, self.starts, self.first, self.last, self.new
        return Pages(self.span, self.size, *(x if x is None else x[:rows] for x in of))  # type: ignore[arg-type]

    @cached_property
    def _blocks(self) -> dict[int, flex.Blocks]:
        return {}

    def blocks(self, total: int) -> flex.Blocks:
        """These pages as a block mask over a pool of `total` pages; built once, when the first such kernel runs."""
        if total not in self._blocks:
            self._blocks[total] = flex.blocks(self, total)
        return self._blocks[total]

    @cached_property
    def call(self) -> inplace.Call:
        """The compiled kernel's call for a step that is these rows and nothing else."""
        return inplace.Call(self.size, self)

    @cached_property
    def _sights(self) -> dict[torch.dtype, Sight]:
        return {}

    def sight(self, dtype: torch.dtype) -> Sight:
        """What the rows see, as a mask over gathered pages; built once, when the plain path first runs."""
        if dtype not in self._sights:
            self._sights[dtype] = make_sight(self.span, *self._positions, dtype)
        return self._sights[dtype]


@dataclass(frozen=True)
class Stretch:
    """Neighbouring tokens [start, stop) of a step that are one sequence's, the first at `position`.

    table (1, n): its pages from position `base`, a multiple of P, on.
    """

    start: int
    stop: int
    position: int
    base: int
    table: Tensor
    span: Span
    dtype: torch.dtype
    device: torch.device | None = None  # where its mask is made

    @property
    def fresh(self) -> bool:
        """Whether nothing of the sequence was cached before, so that the step's own keys are all there is."""
        return self.position == 0

    @cached_property
    def sight(self) -> Sight:
        """What the tokens see, as a mask over the sequence from `base` on; built once, if the plain path runs."""
        end = self.position + self.stop - self.start
        query = torch.arange(self.position, end, device=self.device)[None]
        keys = query if self.fresh else torch.arange(self.base, end, device=self.device)[None]
        # A GPU has a kernel for the corner of a triangle; the processor's wants it square.
        return make_sight(self.span, query, keys, self.dtype, triangle=self.fresh or query.is_cuda)


class Scratch:
    """Memory that steps use in turn: for copies of pages, as fresh memory would cost more than the copy, and for
    counters of kernels that share out a row's pages among programs. Only one step may use it at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._counters: Tensor | None = None

    def counters(self, count: int, device: torch.device) -> Tensor:
        """At least `count` int32, all 0; whoever counts in them has to leave them so."""
        if self._counters is None or len(self._counters) < count:
            self._counters = torch.zeros(count, dtype=torch.int32, device=device)
        return self._counters

    def gather(self, name: str, pool: Tensor, table: Tensor) -> Tensor:
        """pool (pages, P, K, D), table (R, n) → (R, K, n * P, D), good until the next call with this name."""
        rows, count = table.shape
        size, heads, dim = pool.shape[1:]
        needed = table.numel() * pool[0].numel()
        if pool.is_cuda:  # PyTorch keeps a GPU's memory by itself
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
        """Write the entries into pools (pages, P, K, …) at their slots."""
        if gpu.usable(self.key):
            from model.kernels.gpu import attention as tiles

            if tiles.lies_dense(self):
                tiles.store(self, keys, values)
                return
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
    → (R, H, V). fresh: entries of the same rows, stored in the pools first."""
    if inplace.fits(query, value_dim, scores, stretches=False):
        return inplace.attend(pages.call, query, keys, values, value_dim, scores, fresh)
    if gpu.usable(query):
        from model.kernels.gpu import attention as tiles

        if tiles.fits(query, keys, values, value_dim, scores):
            assert values is not None
            if fresh is not None and (pages.new is None or not tiles.lies_dense(fresh)):
                fresh.store(keys, values)
                fresh = None
            return tiles.decode(query, keys, values, pages, scores, scratch, fresh)
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
    """Attention over copies of the pages. What lies behind a row's last position may be no number: it counts as 0."""
    sight = pages.sight(query.dtype)
    gathered = pages.clear(scratch.gather("keys", keys, pages.table))
    seen = gathered[..., :value_dim] if values is None else pages.clear(scratch.gather("values", values, pages.table))
    return attend(query.unsqueeze(2), gathered, seen, sight, scores).squeeze(2)
