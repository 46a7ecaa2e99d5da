"""Views that store nothing: whole sequences of equal length, for training and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from model.cache import CacheEntry, MemoryView, Projection, cache_entries, cache_entry
from model.config import Architecture, MoE, Span
from model.kernels import recurrence
from model.kernels.attention import Scores, Sight, attend, make_open_sight, make_sight
from model.kernels.recurrence import Fed, Mixing, State
from model.moe import Loads, Routing
from model.transformer import StepInput, Transformer


class DenseView:
    """CacheView over `batch` sequences of `length` tokens laid end to end; `both_ways` lets a token see all of its
    sequence."""

    def __init__(self, entries: tuple[CacheEntry, ...], batch: int, length: int, both_ways: bool = False) -> None:
        self.entries, self.batch, self.length, self.both_ways = entries, batch, length, both_ways
        self._sights: dict[tuple[Span, torch.dtype], Sight] = {}

    def sight(self, span: Span, dtype: torch.dtype, device: torch.device) -> Sight:
        if (span, dtype) not in self._sights:
            positions = torch.arange(self.length, device=device)[None]
            causal = make_sight(span, positions, positions, dtype, triangle=True)
            self._sights[span, dtype] = make_open_sight(positions, positions, dtype) if self.both_ways else causal
        return self._sights[span, dtype]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, scores: Scores) -> Tensor:
        entry = self.entries[layer]
        value = key[..., : entry.value_dim] if value is None else value
        query, key, value = (x.unflatten(0, (self.batch, self.length)).transpose(1, 2) for x in (query, key, value))
        sight = self.sight(entry.span, query.dtype, query.device)
        return attend(query, key, value, sight, scores).transpose(1, 2).flatten(0, 1)

    def carry(self, layer: int, mixing: Mixing, fed: Fed) -> Tensor:
        nothing = State.none(mixing.value, self.batch, fed.mixed.device)
        out, _ = recurrence.carry(mixing, fed.of(slice(None), self.batch, self.length), nothing)
        return out.flatten(0, 1)


class DenseMemory:
    """MemoryView over states (batch, n, width), for as many sequences of equal length laid end to end; routings: of the
    encoder that made them."""

    def __init__(self, states: Tensor, routings: tuple[Routing, ...] = ()) -> None:
        self.states, self.routings = states, routings

    def attend(self, layer: int, query: Tensor, project: Projection, scores: Scores) -> Tensor:
        batch, length, _ = self.states.shape
        key, value = (x.unflatten(0, (batch, length)).transpose(1, 2) for x in project(self.states.flatten(0, 1)))
        query = query.unflatten(0, (batch, -1)).transpose(1, 2)
        own, other = (torch.arange(n, device=query.device)[None] for n in (query.shape[2], length))
        sight = make_open_sight(own, other, query.dtype)
        return attend(query, key, value, sight, scores).transpose(1, 2).flatten(0, 1)


def dense_input(architecture: Architecture, tokens: Tensor, memory: MemoryView | None = None) -> StepInput:
    """The input of one uncached forward over tokens (batch, length); every position's logits are wanted."""
    batch, length = tokens.shape
    view = DenseView(cache_entries(architecture), batch, length)
    loads = _loads(architecture.mixtures, batch, length, tokens.device)
    return StepInput(tokens.flatten(), _positions(tokens), view, None, loads, memory)


def dense_memory(model: Transformer, tokens: Tensor) -> DenseMemory:
    """What the encoder of `model` makes of prompts (batch, length)."""
    batch, length = tokens.shape
    encoder = model.architecture.encoder
    assert encoder is not None, "only an architecture with an encoder makes a memory"
    view = DenseView(tuple(map(cache_entry, encoder.attentions)), batch, length, both_ways=True)
    loads = _loads(encoder.mixtures, batch, length, tokens.device)
    states, routings = model.encode(StepInput(tokens.flatten(), _positions(tokens), view, None, loads))
    return DenseMemory(states.unflatten(0, (batch, length)), routings)


def _positions(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens))


def _loads(mixtures: tuple[tuple[int, MoE], ...], batch: int, length: int, device: torch.device) -> Loads | None:
    """Loads of `batch` sequences of `length` tokens with nothing before them; None if no router has a capacity."""
    if not any(moe.router.capacity for _, moe in mixtures):
        return None
    most = max(moe.experts for _, moe in mixtures)
    prior = torch.zeros(len(mixtures), batch, most, dtype=torch.long, device=device)
    return Loads(torch.arange(batch, device=device).repeat_interleave(length), prior)
