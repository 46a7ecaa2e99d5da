"""Random weights: what training starts from, and what an architecture without a checkpoint serves."""

from __future__ import annotations

import torch
from torch import nn

from model.attention import LatentAttention
from model.feedforward import FeedForward
from model.moe import Experts, Router
from model.transformer import Transformer


def initialise(model: Transformer, seed: int, std: float = 0.02) -> None:
    """Normal weights of deviation `std`, projections back into the residual stream smaller by sqrt(2 * layers)."""
    generator = torch.Generator().manual_seed(seed)
    into_residual = std / (2 * len(model.blocks)) ** 0.5

    def normal(weight: torch.Tensor, deviation: float) -> None:
        nn.init.normal_(weight, std=deviation, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            normal(module.weight, std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Router):
            normal(module.weight, std)
        elif isinstance(module, Experts):
            normal(module.up, std)
            normal(module.down, into_residual)
        elif isinstance(module, LatentAttention):
            normal(module.key_up, std)
            normal(module.value_up, std)
    for module in model.modules():
        if isinstance(module, FeedForward):
            normal(module.down.weight, into_residual)
        elif hasattr(module, "out") and isinstance(module.out, nn.Linear):
            normal(module.out.weight, into_residual)
