"""Blocks, built from their values and run one after another: what the decoder and an encoder have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from model import attention, config
from model.attention import Surroundings
from model.cross import CrossAttention
from model.feedforward import FeedForward
from model.moe import Beside, Loads, MoE, Routing
from model.norm import build_norm
from model.position import BucketTable, RotaryTable
from model.recurrent import RecurrentMixer

AROUND = (*attention.MODULES.values(), CrossAttention, RecurrentMixer)  # branches that look around them


class Stage(nn.Module):
    """What a stack runs in turn: a block in one form or another, or several blocks."""

    needs_memory = False  # whether it is left out of a pass that has none

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        """x (T, width) → the same, and what the routers of its mixtures decided, in order."""
        raise NotImplementedError


class Block(Stage):
    """Residual branches with their norms, in series or in parallel."""

    def __init__(self, value: config.Block, width: int, branches: list[nn.Module]) -> None:
        super().__init__()
        self.value, self.needs_memory = value, value.needs_memory
        self.branches = nn.ModuleList(branches)
        before, after = value.placement in ("pre", "sandwich"), value.placement in ("post", "output", "sandwich")
        normed = [before and not isinstance(branch, Beside) for branch in branches][: 1 if value.shared_norm else None]
        self.norms_before = nn.ModuleList(build_norm(value.norm if wanted else None, width) for wanted in normed)
        self.norms_after = nn.ModuleList(build_norm(value.norm if after else None, width) for _ in branches)
        self.gates = nn.Parameter(torch.zeros(len(branches))) if value.gated else None

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        routings: list[Routing] = []
        start, post = x, self.value.placement == "post"
        for i, branch in enumerate(self.branches):
            seen = self.norms_before[0 if self.value.shared_norm else i](start if self.value.parallel else x)
            if isinstance(branch, MoE | Beside):
                y, routing = branch(seen, loads)
                routings.append(routing)
            else:
                y = branch(seen, around) if isinstance(branch, AROUND) else branch(seen)
            x = self.norms_after[i](self._add(x, y, i)) if post else self._add(x, self.norms_after[i](y), i)
        return x, routings

    def _add(self, x: Tensor, y: Tensor, branch: int) -> Tensor:
        if self.gates is not None:
            y = y * torch.tanh(self.gates[branch])
        return x + (y if self.value.residual_scale == 1 else y * self.value.residual_scale)


Tables = dict[tuple[config.Rotary | config.Buckets, int], int]
"""(position value, head dimension or heads) → index among the tables of a stack."""


def build_blocks(
    values: Iterable[config.Block], width: int, both_ways: bool = False
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Position tables, one for each distinct value and size, and the blocks in order.

    both_ways: whether the stack also sees what comes after a token, as an encoder does.
    """
    tables: Tables = {}
    count: Counter[str] = Counter()
    blocks = [Block(v, width, [_branch(b, width, tables, count) for b in v.branches]) for v in values]
    return nn.ModuleList(_table(value, size, both_ways) for value, size in tables), nn.ModuleList(blocks)


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, around: Surroundings, loads: Loads | None
) -> tuple[Tensor, tuple[Routing, ...]]:
    """x (T, width) through every stage; those that only look at a memory are left out where there is none."""
    routings: list[Routing] = []
    for stage in blocks:
        assert isinstance(stage, Stage)
        if around.memory is not None or not stage.needs_memory:
            x, routed = stage(x, around, loads)
            routings += routed
    return x, tuple(routings)


def _branch(value: config.Branch, width: int, tables: Tables, count: Counter[str]) -> nn.Module:
    """The module of a branch; all but feed-forwards are told how many of their kind came before them."""
    match value:
        case config.Attention():
            built = attention.MODULES[type(value.heads)]
            return built(value, width, _next(count, "attention"), _table_index(value, tables))
        case config.CrossAttention():
            return CrossAttention(value, width, _next(count, "cross"))
        case config.Recurrent():
            return RecurrentMixer(value, width, _next(count, "recurrent"))
        case config.MoE():
            return MoE(value, width, _next(count, "mixture"))
        case config.Beside():
            return Beside(value, width, _next(count, "mixture"))
        case config.FeedForward():
            return FeedForward(value, width)


def _next(count: Counter[str], kind: str) -> int:
    count[kind] += 1
    return count[kind] - 1


def _table_index(value: config.Attention, tables: Tables) -> int | None:
    """Index of the table a branch shares with all of its kind; None where its position has no table."""
    heads = value.heads
    match value.position:
        case config.Rotary():
            size = heads.rotary_dim if isinstance(heads, config.Latent) else heads.dim
        case config.Buckets():
            size = heads.query
        case _:
            return None
    return tables.setdefault((value.position, size), len(tables))


def _table(value: config.Rotary | config.Buckets, size: int, both_ways: bool) -> nn.Module:
    return RotaryTable(value, size) if isinstance(value, config.Rotary) else BucketTable(value, size, both_ways)
