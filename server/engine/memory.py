"""What cross-attention reads: keys and values of each request's source, in pages, computed once a request.

Shape letters: T tokens of the step, n pages a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.cache import CacheEntry, Projection
from model.config import Architecture, Full
from model.dense import dense_memory
from model.kernels.attention import Scores
from model.kernels.paged import Pages, decode
from model.moe import Routing
from model.paged import PagedCache
from model.transformer import Transformer
from server.engine.step import Row, Step


def memory_entries(architecture: Architecture) -> tuple[CacheEntry, ...]:
    """What one token of a source stores for each cross-attention branch, in the order of the layers."""
    crossing = (branch.heads for branch in architecture.crossings)
    return tuple(CacheEntry(Full(), heads.kv, heads.dim, heads.dim) for heads in crossing)


@dataclass(frozen=True, slots=True)
class Fresh:
    """Sources read in this step, end to end: their states (tokens, width), where their entries go, and how many experts
    of each of the encoder's mixture layers each of them touched (sources, layers)."""

    states: Tensor
    slots: Tensor
    experts: Tensor


class StepMemory:
    """MemoryView of one step: every token looks at all of its request's source. `fresh`: sources that are not in the
    cache yet; those that are new in a step must be read into it first."""

    def __init__(self, cache: PagedCache, pages: Pages, fresh: Fresh | None = None) -> None:
        self.cache, self.pages, self.fresh = cache, pages, fresh

    def attend(self, layer: int, query: Tensor, project: Projection, scores: Scores) -> Tensor:
        cache = self.cache
        if self.fresh is not None:
            cache.store(layer, self.fresh.slots, *project(self.fresh.states))
        dim = cache.entries[layer].value_dim
        return decode(query, cache.keys[layer], cache.values[layer], dim, self.pages, scores, cache.scratch)


def step_memory(cache: PagedCache, step: Step) -> StepMemory:
    """Where every token finds its source."""
    return StepMemory(cache, _pages(step, cache.page_size))


def read_sources(model: Transformer, memory: StepMemory, step: Step) -> StepMemory:
    """The same memory with the sources that are new in this step: the encoder's work."""
    rows = [row for row in step.rows if row.encodes]
    return StepMemory(memory.cache, memory.pages, _read(model, rows, memory.cache.page_size)) if rows else memory


def _read(model: Transformer, rows: Sequence[Row], page_size: int) -> Fresh:
    """One source at a time: lengths differ, and nobody shall be padded into another's company."""
    device = model.embedding.weight.device
    memories = [dense_memory(model, torch.tensor([row.request.source], device=device)) for row in rows]
    slots = [_slots(row, page_size) for row in rows]
    experts = torch.stack([_touched(model.architecture, memory.routings) for memory in memories])
    return Fresh(torch.cat([memory.states[0] for memory in memories]), torch.from_numpy(np.concatenate(slots)), experts)


def _touched(architecture: Architecture, routings: tuple[Routing, ...]) -> Tensor:
    """How many experts of each of the encoder's mixture layers had a token, (layers,), without waiting for a GPU."""
    assert architecture.encoder is not None
    found = []
    for (_, mixture), routing in zip(architecture.encoder.mixtures, routings, strict=True):
        chosen = routing.experts.where(routing.experts >= 0, mixture.experts)  # one more, for those who had no room
        had = torch.zeros(mixture.experts + 1, dtype=torch.long, device=chosen.device)
        found.append(had.index_fill_(0, chosen.flatten(), 1)[:-1].sum())
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.long)


def _slots(row: Row, page_size: int) -> np.ndarray:
    positions = np.arange(len(row.request.source))
    return np.asarray(row.source)[positions // page_size] * page_size + positions % page_size


def _pages(step: Step, page_size: int) -> Pages:
    counts = torch.tensor([row.count for row in step.rows])
    width = max(len(row.source) for row in step.rows)
    table = torch.tensor([(*row.source, *((0,) * (width - len(row.source)))) for row in step.rows])
    last = torch.tensor([len(row.request.source) - 1 for row in step.rows])
    nothing = torch.zeros(step.num_tokens, dtype=torch.long)
    spread = table.repeat_interleave(counts, dim=0), last.repeat_interleave(counts)
    return Pages(Full(), page_size, spread[0], nothing, nothing, spread[1])
