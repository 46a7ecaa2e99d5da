"""Writes a model as a Hugging Face directory, where its architecture is one that those files can say.

Those are the families with a class to name (`written`): one attention and one feed-forward for all layers, stored
without repacking. What only training knows (the losses of a router) is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import config
from model.checkpoint.changes import SAME
from model.checkpoint.error import CheckpointError
from model.checkpoint.families import FAMILIES
from model.checkpoint.native import write_json
from model.checkpoint.piece import Piece
from model.checkpoint.settings import Settings
from model.checkpoint.walk import pieces
from model.checkpoint.weights import INDEX, SINGLE, write
from model.config import Architecture, ConfigError
from model.transformer import Transformer

CLASSES = {kind: family.written for kind, family in FAMILIES.items() if family.written is not None}
ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}
SHARD_BYTES = 4 << 30


def save(folder: Path, model: Transformer, more: dict[str, Any]) -> str:
    """Write config.json (with the keys of `more`) and weights; returns the model type.

    CheckpointError when no model type says what the architecture is.
    """
    data = describe(model.architecture)
    kind = str(data["model_type"])
    plan = list(pieces(model.architecture, FAMILIES[kind].layout(Settings(data))))
    dtype = {"dtype": str(model.embedding.weight.dtype).removeprefix("torch.")}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", data | dtype | more)
    _write_shards(folder, model, plan)
    return kind


def describe(architecture: Architecture) -> dict[str, Any]:
    """The config.json of an architecture: the first model type that reads as exactly this one."""
    wanted, data = _untrained(architecture), _keys(architecture)
    for kind, name in CLASSES.items():
        said = {**data, "model_type": kind, "architectures": [name]}
        if data and _reads_as(kind, said) == wanted:
            return said
    raise CheckpointError(f"none of the layouts {', '.join(CLASSES)} can say what this architecture is")


def _reads_as(kind: str, data: dict[str, Any]) -> Architecture | None:
    try:
        return FAMILIES[kind].architecture(Settings(data))
    except (CheckpointError, ConfigError):
        return None


def _keys(architecture: Architecture) -> dict[str, Any]:
    """Every key that one of the layouts reads; nothing when the blocks are not of their kind."""
    block = architecture.blocks[0]
    if len(block.branches) != 2 or architecture.norm is None:
        return {}
    attention, feed = block.branches
    if not isinstance(attention, config.Attention) or not isinstance(attention.heads, config.Grouped):
        return {}
    if not isinstance(feed, config.FeedForward | config.MoE):
        return {}
    return {
        "vocab_size": architecture.vocab,
        "hidden_size": architecture.width,
        "max_position_embeddings": architecture.context,
        "num_hidden_layers": len(architecture.blocks),
        "tie_word_embeddings": architecture.head.tied,
        "rms_norm_eps": architecture.norm.eps,
        **_attention_keys(attention, attention.heads),
        **_feed_keys(feed),
    }


def _attention_keys(attention: config.Attention, heads: config.Grouped) -> dict[str, Any]:
    size = attention.span.size if isinstance(attention.span, config.Window) else None
    turn = attention.position if isinstance(attention.position, config.Rotary) else config.Rotary()
    return {
        "num_attention_heads": heads.query,
        "num_key_value_heads": heads.kv,
        "head_dim": heads.dim,
        "attention_bias": attention.out_bias,
        "sliding_window": size,
        "use_sliding_window": size is not None,
        "max_window_layers": 0,
        "rope_theta": turn.theta,
        "rope_parameters": {"rope_theta": turn.theta, **_scaling_keys(turn.scaling)},
    }


def _scaling_keys(scaling: config.Scaling | None) -> dict[str, Any]:
    match scaling:
        case config.LinearScaling(factor):
            return {"rope_type": "linear", "factor": factor}
        case config.Llama3Scaling(factor, original, low, high):
            frequencies = {"low_freq_factor": low, "high_freq_factor": high}
            return {"rope_type": "llama3", "factor": factor, "original_max_position_embeddings": original} | frequencies
        case _:
            return {"rope_type": "default"}


def _feed_keys(feed: config.FeedForward | config.MoE) -> dict[str, Any]:
    one = feed.expert if isinstance(feed, config.MoE) else feed
    kind = str(one.activation)
    keys: dict[str, Any] = {"hidden_act": ACTIVATIONS.get(kind, kind), "intermediate_size": one.hidden}
    if isinstance(feed, config.FeedForward):
        return keys | {"mlp_bias": feed.bias}
    return keys | {
        "moe_intermediate_size": one.hidden,
        "num_local_experts": feed.experts,
        "num_experts": feed.experts,
        "num_experts_per_tok": feed.active,
        "norm_topk_prob": feed.router.normalise,
    }


def _untrained(architecture: Architecture) -> Architecture:
    """The architecture with the default router losses, which only training uses."""

    def branch(value: config.Branch) -> config.Branch:
        if not isinstance(value, config.MoE):
            return value
        return replace(value, router=replace(value.router, loss=config.RouterLoss()))

    blocks = (replace(block, branches=tuple(map(branch, block.branches))) for block in architecture.blocks)
    return replace(architecture, blocks=tuple(blocks))


# ---------------------------------------------------------------------------------------------- weights


def _write_shards(folder: Path, model: Transformer, plan: list[Piece]) -> None:
    """One file, or several with an index; only one shard is in memory beside the model."""
    shards = list(_shards(model, plan))
    if len(shards) == 1:
        _write(folder / SINGLE, model, shards[0])
        return
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        _write(folder / name, model, shard)
        places |= {piece.sources[0]: name for piece in shard}
    total = sum(tensor.nbytes for tensor in model.state_dict().values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _shards(model: Transformer, plan: list[Piece]) -> Iterator[list[Piece]]:
    targets = model.state_dict()
    shard: list[Piece] = []
    size = 0
    for piece in plan:
        size += _region(targets, piece).nbytes
        if shard and size > SHARD_BYTES:
            yield shard
            shard, size = [], _region(targets, piece).nbytes
        shard.append(piece)
    yield shard


def _write(path: Path, model: Transformer, shard: list[Piece]) -> None:
    targets = model.state_dict()
    tensors = {
        piece.sources[0]: _region(targets, piece).clone(memory_format=torch.contiguous_format) for piece in shard
    }
    write(path, tensors, {"format": "pt"})


def _region(targets: dict[str, Tensor], piece: Piece) -> Tensor:
    assert piece.change is SAME, f"{piece.target} is stored repacked"
    return targets[piece.target][piece.place]
