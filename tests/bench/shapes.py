"""The architectures that are measured: the shapes of the random checkpoints that other engines are measured on, and
smaller ones of every kind."""

from __future__ import annotations

import json
from pathlib import Path

from model import codec
from model.config import Architecture, Attention, Block, FeedForward, Grouped, Latent, MoE, Rotary

VOCAB, CONTEXT = 8192, 16384


def dense(layers: int, width: int, query: int, kv: int, hidden: int) -> Architecture:
    """Llama-like, heads of 64."""
    branches = (Attention(Grouped(query, kv, 64), Rotary()), FeedForward(hidden))
    return Architecture(VOCAB, width, CONTEXT, (Block(branches),) * layers)


def mixture(layers: int, experts: int, active: int = 2, hidden: int = 1536) -> Architecture:
    """Mixtral-like, of width 768; with more experts the active parameters stay the same, but for the router."""
    branches = (Attention(Grouped(12, 4, 64), Rotary()), MoE(experts, active, FeedForward(hidden)))
    return Architecture(VOCAB, 768, CONTEXT, (Block(branches),) * layers)


def latent(layers: int) -> Architecture:
    """DeepSeek-like, of width 768: latent attention, a shared expert beside the routed ones."""
    heads = Latent(query=12, kv_rank=256, plain_dim=64, rotary_dim=32, value_dim=64, query_rank=384)
    experts = MoE(16, 2, FeedForward(768), shared=FeedForward(1536))
    return Architecture(VOCAB, 768, CONTEXT, (Block((Attention(heads, Rotary()), experts)),) * layers)


SHAPES: dict[str, Architecture] = {
    "tiny-dense": dense(8, 384, 6, 2, 1408),
    "small-dense": dense(16, 768, 12, 4, 3072),
    "small-moe": mixture(12, 8),
    "base-dense": dense(22, 2048, 32, 4, 5632),
    "dense": dense(4, 768, 12, 4, 3072),
    "moe": mixture(4, 8),
    "latent": latent(4),
}


def write(architecture: Architecture, path: Path) -> Path:
    """As a file that the server serves with random weights."""
    path.write_text(json.dumps(codec.architecture_to_dict(architecture)))
    return path
