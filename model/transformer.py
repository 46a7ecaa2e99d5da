"""The forward pass: Transformer is a tuple of blocks, a block a tuple of residual branches. It runs on a flat list of
tokens; which of them belong together is the cache view's business."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import config
from model.attention import Surroundings
from model.cache import CacheView, MemoryView
from model.encoder import Encoder
from model.moe import Loads, Routing
from model.norm import build_norm
from model.position import EMBEDDED
from model.stack import build_blocks, run_blocks


@dataclass(frozen=True, slots=True)
class StepInput:
    """What goes down: tokens (T,), positions (T,), the cache, which rows want logits (None: all), expert loads where a
    router has a capacity, what cross-attention looks at."""

    tokens: Tensor
    positions: Tensor
    cache: CacheView
    select: Tensor | None = None
    loads: Loads | None = None
    memory: MemoryView | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What comes up: logits float32 (selected rows, vocab) and one Routing for each mixture layer."""

    logits: Tensor
    routings: tuple[Routing, ...]


class Transformer(nn.Module):
    """A model built from an architecture; weights are random until loaded.

    With an encoder, `encode` reads a prompt into the memory that `forward` then needs. Other architectures with
    cross-attention run without memory too, and leave out the blocks that look at it.
    """

    def __init__(self, architecture: config.Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width, embedding = architecture.width, architecture.embedding
        self.embedding = nn.Embedding(architecture.vocab + embedding.spare, width)
        position = embedding.position
        self.position = EMBEDDED[type(position)](position, width) if position else None
        self.embedding_norm = build_norm(embedding.norm, width)
        self.tables, self.blocks = build_blocks(architecture.blocks, width)
        self.norm = build_norm(architecture.norm, width)
        head = architecture.head
        self.head: nn.Module | None = None if head.tied else nn.Linear(width, architecture.vocab, bias=head.bias)
        self.head_bias = nn.Parameter(torch.zeros(architecture.vocab)) if head.bias and head.tied else None
        self.encoder = Encoder(architecture.encoder, width) if architecture.encoder else None

    def forward(self, step: StepInput) -> StepOutput:
        states, routings = self.states(step)
        return StepOutput(self.project(states), routings)

    def states(self, step: StepInput) -> tuple[Tensor, tuple[Routing, ...]]:
        """The selected rows (rows, width) that `project` makes logits of, and one Routing for each mixture layer."""
        assert self.encoder is None or step.memory is not None, "a model with an encoder needs the memory of the prompt"
        x = self.embed(step.tokens, step.positions)
        turns = tuple(table(step.positions, x.dtype) for table in self.tables)
        around = Surroundings(step.positions, step.cache, turns, step.memory)
        x, routings = run_blocks(self.blocks, x, around, step.loads)
        return self.norm(x if step.select is None else x[step.select]), routings

    def encode(self, step: StepInput) -> tuple[Tensor, tuple[Routing, ...]]:
        """Prompts → their memory (T, width), and the encoder's routings. The cache view is one in which every token
        sees its whole sequence."""
        assert self.encoder is not None, "only a model with an encoder encodes"
        memory: tuple[Tensor, tuple[Routing, ...]] = self.encoder(
            self.embed(step.tokens, step.positions), step.positions, step.cache, step.loads
        )
        return memory

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
