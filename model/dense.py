"""A cache view that stores nothing: whole sequences of equal length, for training and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from model.cache import CacheEntry, cache_entries
from model.config import Architecture, Span
from model.kernels.attention import Scores, Sight, attend, make_sight
from model.moe import Loads
from model.transformer import StepInput


class DenseView:
    """CacheView over `batch` sequences of `length` tokens laid end to end."""

    def __init__(self, entries: tuple[CacheEntry, ...], batch: int, length: int) -> None:
        self.entries, self.batch, self.length = entries, batch, length
        self._sights: dict[tuple[Span, torch.dtype], Sight] = {}

    def sight(self, span: Span, dtype: torch.dtype) -> Sight:
        if (span, dtype) not in self._sights:
            positions = torch.arange(self.length)[None]
            self._sights[span, dtype] = make_sight(span, positions, positions, dtype, triangle=True)
        return self._sights[span, dtype]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, scores: Scores) -> Tensor:
        entry = self.entries[layer]
        value = key[..., : entry.value_dim] if value is None else value
        query, key, value = (x.unflatten(0, (self.batch, self.length)).transpose(1, 2) for x in (query, key, value))
        return attend(query, key, value, self.sight(entry.span, query.dtype), scores).transpose(1, 2).flatten(0, 1)


def dense_input(architecture: Architecture, tokens: Tensor) -> StepInput:
    """The input of one uncached forward over tokens (batch, length); every position's logits are wanted."""
    batch, length = tokens.shape
    positions = torch.arange(length).repeat(batch)
    loads = None
    if any(moe.router.capacity for _, moe in architecture.mixtures):
        widest = max(moe.experts for _, moe in architecture.mixtures)
        prior = torch.zeros(len(architecture.mixtures), batch, widest, dtype=torch.long)
        loads = Loads(torch.arange(batch).repeat_interleave(length), prior)
    view = DenseView(cache_entries(architecture), batch, length)
    return StepInput(tokens.flatten(), positions, view, None, loads)
