"""Cache memory in pages, and the view of it that one step's attention gets.

Shape letters: T tokens of the step, R rows that decode (one token each), n pages a row, P page size (tokens a page).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from model.cache import CacheEntry, groups_of
from model.kernels import inplace
from model.kernels.attention import Scores, attend
from model.kernels.paged import Entries, Pages, Scratch, Stretch, decode
from model.kernels.recurrence import Fed, Mixing
from model.states import StateView


class PagedCache:
    """The pools: for each cache layer keys (pages, P, heads, key_dim) and, where stored, values. Page 0 stays zero."""

    def __init__(
        self,
        entries: tuple[CacheEntry, ...],
        pages: tuple[int, ...],
        page_size: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        """pages: for each layer, how many pages its pool has."""
        self.entries, self.page_size = entries, page_size
        self.keys = [
            torch.zeros(n, page_size, e.heads, e.key_dim, dtype=dtype, device=device)
            for n, e in zip(pages, entries, strict=True)
        ]
        self.values = [
            None if e.value_in_key else torch.zeros(n, page_size, e.heads, e.value_dim, dtype=dtype, device=device)
            for n, e in zip(pages, entries, strict=True)
        ]
        self.scratch = Scratch()
        self.pools = inplace.Pools(self.keys, self.values, groups_of(entries))

    def store(self, layer: int, slots: Tensor, key: Tensor, value: Tensor | None) -> None:
        """Write entries of tokens at flat slots (page * P + offset)."""
        Entries(key, value, slots).store(self.keys[layer], self.values[layer])

    def gather(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of keys and values of pages (R, n) as (R, heads, n * P, dim), good until the next call."""
        keys, values = self.scratch.gather("keys", self.keys[layer], table), self.values[layer]
        if values is None:
            return keys, keys[..., : self.entries[layer].value_dim]
        return keys, self.scratch.gather("values", values, table)

    def scrub(self, layer: int, slots: Tensor) -> None:
        """Zero entries, so that what a faulty forward left there can never be read."""
        for pool in (self.keys[layer], self.values[layer]):
            if pool is not None:
                pool.flatten(0, 1).index_fill_(0, slots.to(pool.device), 0)


@dataclass(frozen=True, slots=True)
class Decode:
    """Rows with one token, attended together: their indices among the step's tokens, and what each sees."""

    tokens: Tensor
    pages: Pages


@dataclass(frozen=True)
class GroupView:
    """Where the tokens of a step live in the pools of one cache group: each stands alone or in a stretch of neighbours.

    firsts (T,): the first position that each of them sees; None where nobody asks.
    """

    page_size: int
    slots: Tensor
    decode: Decode | None
    stretches: tuple[Stretch, ...] = ()
    firsts: Tensor | None = None

    @cached_property
    def call(self) -> inplace.Call:
        """The compiled kernel's call for all of them."""
        pages, tokens = (None, None) if self.decode is None else (self.decode.pages, self.decode.tokens)
        return inplace.Call(self.page_size, pages, tokens if self.stretches else None, self.stretches, self.firsts)


class PagedView:
    """CacheView of one step; states: of a model with recurrent mixers."""

    def __init__(self, cache: PagedCache, groups: tuple[GroupView, ...], states: StateView | None = None) -> None:
        self.cache, self.groups, self.states, self.pools = cache, groups, states, cache.pools

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, scores: Scores) -> Tensor:
        group, cache, dim = self.groups[self.pools.groups[layer]], self.cache, self.cache.entries[layer].value_dim
        fresh = Entries(key, value, group.slots)
        if inplace.fits(query, dim, scores, bool(group.stretches)):
            return inplace.attend(group.call, query, cache.keys[layer], cache.values[layer], dim, scores, fresh)
        if not group.stretches and group.decode is not None:
            return self._decode(layer, query, group.decode, scores, fresh)
        fresh.store(cache.keys[layer], cache.values[layer])
        out = query.new_empty(*query.shape[:2], dim)
        if group.decode is not None:
            rows = group.decode.tokens
            out.index_copy_(0, rows, self._decode(layer, query.index_select(0, rows), group.decode, scores.at(rows)))
        for part in group.stretches:
            out[part.start : part.stop] = self._attend(layer, query, key, value, part, scores)
        return out

    def carry(self, layer: int, mixing: Mixing, fed: Fed) -> Tensor:
        assert self.states is not None, "a model with recurrent mixers is served with states"
        return self.states.carry(layer, mixing, fed)

    def calls(self) -> list[inplace.Call]:
        """As an OpenCacheView."""
        return [group.call.take(group.slots) for group in self.groups]

    def _decode(self, layer: int, query: Tensor, part: Decode, scores: Scores, fresh: Entries | None = None) -> Tensor:
        cache, dim = self.cache, self.cache.entries[layer].value_dim
        return decode(query, cache.keys[layer], cache.values[layer], dim, part.pages, scores, cache.scratch, fresh)

    def _attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, part: Stretch, scores: Scores
    ) -> Tensor:
        own = slice(part.start, part.stop)
        if part.fresh:
            keys = key[own].transpose(0, 1)[None]
            values = (
                keys[..., : self.cache.entries[layer].value_dim] if value is None else value[own].transpose(0, 1)[None]
            )
        else:
            length = part.sight.key.shape[-1]  # behind it nobody has written yet: what lies there may be no number
            keys, values = (copy[:, :, :length] for copy in self.cache.gather(layer, part.table))
        return attend(query[own].transpose(0, 1)[None], keys, values, part.sight, scores.at(own))[0].transpose(0, 1)
