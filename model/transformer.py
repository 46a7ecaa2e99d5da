"""The forward pass: Transformer is a tuple of blocks, a block a tuple of residual branches. It runs on a flat list of
tokens; which of them belong together is the cache view's business."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import attention, config
from model.attention import Surroundings
from model.cache import CacheView
from model.feedforward import FeedForward
from model.moe import Loads, MoE, Routing
from model.norm import build_norm
from model.position import EMBEDDED, RotaryTable


@dataclass(frozen=True, slots=True)
class StepInput:
    """What goes down: tokens (T,), positions (T,), the cache, which rows want logits (None: all), expert loads where a
    router has a capacity."""

    tokens: Tensor
    positions: Tensor
    cache: CacheView
    select: Tensor | None = None
    loads: Loads | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What comes up: logits float32 (selected rows, vocab) and one Routing for each mixture layer."""

    logits: Tensor
    routings: tuple[Routing, ...]


class Block(nn.Module):
    """Residual branches with their norms, in series or in parallel."""

    def __init__(self, value: config.Block, width: int, branches: list[nn.Module]) -> None:
        super().__init__()
        self.value = value
        self.branches = nn.ModuleList(branches)
        count = 1 if value.shared_norm else len(branches)
        before, after = value.placement in ("pre", "sandwich"), value.placement in ("post", "output", "sandwich")
        self.norms_before = nn.ModuleList(build_norm(value.norm if before else None, width) for _ in range(count))
        self.norms_after = nn.ModuleList(build_norm(value.norm if after else None, width) for _ in branches)
        self.gates = nn.Parameter(torch.zeros(len(branches))) if value.gated else None

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        routings: list[Routing] = []
        start, post = x, self.value.placement == "post"
        for i, branch in enumerate(self.branches):
            seen = self.norms_before[0 if self.value.shared_norm else i](start if self.value.parallel else x)
            if isinstance(branch, MoE):
                y, routing = branch(seen, loads)
                routings.append(routing)
            else:
                y = branch(seen) if isinstance(branch, FeedForward) else branch(seen, around)
            x = self.norms_after[i](self._add(x, y, i)) if post else self._add(x, self.norms_after[i](y), i)
        return x, routings

    def _add(self, x: Tensor, y: Tensor, branch: int) -> Tensor:
        if self.gates is not None:
            y = y * torch.tanh(self.gates[branch])
        return x + (y if self.value.residual_scale == 1 else y * self.value.residual_scale)


class Transformer(nn.Module):
    """A decoder-only model built from an architecture; weights are random until loaded."""

    def __init__(self, architecture: config.Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width, embedding = architecture.width, architecture.embedding
        self.embedding = nn.Embedding(architecture.vocab, width)
        position = embedding.position
        self.position = EMBEDDED[type(position)](position, width) if position else None
        self.embedding_norm = build_norm(embedding.norm, width)
        tables, blocks = _build_blocks(architecture)
        self.tables, self.blocks = nn.ModuleList(tables), nn.ModuleList(blocks)
        self.norm = build_norm(architecture.norm, width)
        head = architecture.head
        self.head: nn.Module | None = None if head.tied else nn.Linear(width, architecture.vocab, bias=head.bias)
        self.head_bias = nn.Parameter(torch.zeros(architecture.vocab)) if head.bias and head.tied else None

    def forward(self, step: StepInput) -> StepOutput:
        x = self.embed(step.tokens, step.positions)
        turns = tuple(table(step.positions, x.dtype) for table in self.tables)
        around = Surroundings(step.positions, step.cache, turns)
        routings: list[Routing] = []
        for block in self.blocks:
            x, routed = block(x, around, step.loads)
            routings += routed
        x = x if step.select is None else x[step.select]
        return StepOutput(self.project(self.norm(x)), tuple(routings))

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.architecture.embedding.scale != 1:
            x = x * torch.tensor(self.architecture.embedding.scale, dtype=x.dtype)
        if self.position is not None:
            x = x + self.position(positions).to(x.dtype)
        y: Tensor = self.embedding_norm(x)
        return y

    def project(self, x: Tensor) -> Tensor:
        """x (rows, width) → float32 logits (rows, vocab)."""
        value = self.architecture.head
        logits = F.linear(x, self.embedding.weight, self.head_bias) if self.head is None else self.head(x)
        logits = logits.float()
        if value.scale != 1:
            logits = logits * value.scale
        return logits if value.softcap is None else value.softcap * torch.tanh(logits / value.softcap)


def _build_blocks(architecture: config.Architecture) -> tuple[list[RotaryTable], list[Block]]:
    """Blocks in order, and one rotary table for each distinct rotary value and head dimension."""
    width = architecture.width
    tables: dict[tuple[config.Rotary, int], int] = {}
    attentions = mixtures = 0
    blocks: list[Block] = []
    for value in architecture.blocks:
        branches: list[nn.Module] = []
        for branch in value.branches:
            match branch:
                case config.Attention():
                    table = _table(branch, tables)
                    branches.append(attention.MODULES[type(branch.heads)](branch, width, attentions, table))
                    attentions += 1
                case config.MoE():
                    branches.append(MoE(branch, width, mixtures))
                    mixtures += 1
                case config.FeedForward():
                    branches.append(FeedForward(branch, width))
        blocks.append(Block(value, width, branches))
    return [RotaryTable(rotary, dim) for rotary, dim in tables], blocks


def _table(value: config.Attention, tables: dict[tuple[config.Rotary, int], int]) -> int | None:
    """Index of the branch's rotary table, added to `tables` when it is new; None without rotation."""
    if not isinstance(value.position, config.Rotary):
        return None
    heads = value.heads
    dim = heads.rotary_dim if isinstance(heads, config.Latent) else heads.dim
    return tables.setdefault((value.position, dim), len(tables))
