"""The whole forward of one sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model import config
from model.reference.arithmetic import Weights, capped, norm
from model.reference.attention import attention
from model.reference.experts import Routed, feed_forward, mixture
from model.reference.position import sinusoid
from model.reference.recurrent import recurrent
from model.transformer import Transformer


def logits_of(
    model: Transformer, tokens: Sequence[int], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, tuple[Routed, ...]]:
    """Logits (T, vocab) of one sequence and the decisions of every mixture layer, computed in `dtype`.

    NotImplementedError for an architecture with an encoder, cross-attention, bucketed bias or sparse selection.
    """
    value = model.architecture
    if value.encoder is not None:
        raise NotImplementedError("the reference has no encoder")
    w = Weights({name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items()})
    routed: list[Routed] = []
    x = embed(tokens, value, w)
    for i, layer in enumerate(value.blocks):
        x = block(x, layer, w.under(f"blocks.{i}"), routed)
    x = norm(x, value.norm, w.under("norm"))
    logits = x @ w["embedding.weight" if value.head.tied else "head.weight"].T
    if value.head.bias:
        logits = logits + w["head_bias" if value.head.tied else "head.bias"]
    return capped(logits * value.head.scale, value.head.softcap), tuple(routed)


def embed(tokens: Sequence[int], value: config.Architecture, w: Weights) -> Tensor:
    rows = []
    for position, token in enumerate(tokens):
        row = w["embedding.weight"][token] * value.embedding.scale
        match value.embedding.position:
            case config.Learned(_, offset):
                row = row + w["position.table.weight"][position + offset]
            case config.Sinusoidal(layout):
                row = row + row.new_tensor(sinusoid(position, value.width, layout))
        rows.append(row)
    return norm(torch.stack(rows), value.embedding.norm, w.under("embedding_norm"))


def block(x: Tensor, value: config.Block, w: Weights, routed: list[Routed]) -> Tensor:
    start = x
    for i, branch in enumerate(value.branches):
        y = start if value.parallel else x
        if value.placement in ("pre", "sandwich"):
            y = norm(y, value.norm, w.under(f"norms_before.{0 if value.shared_norm else i}"))
        y = run_branch(y, branch, w.under(f"branches.{i}"), routed)
        if value.placement in ("output", "sandwich"):
            y = norm(y, value.norm, w.under(f"norms_after.{i}"))
        if value.gated:
            y = y * w["gates"][i].tanh()
        x = x + value.residual_scale * y
        if value.placement == "post":
            x = norm(x, value.norm, w.under(f"norms_after.{i}"))
    return x


def run_branch(x: Tensor, value: config.Branch, w: Weights, routed: list[Routed]) -> Tensor:
    match value:
        case config.Attention():
            return attention(x, value, w)
        case config.Recurrent():
            return recurrent(x, value, w)
        case config.FeedForward():
            return feed_forward(x, value, w)
        case config.MoE():
            y, decisions = mixture(x, value, w)
            routed.append(decisions)
            return y
        case _:
            raise NotImplementedError(f"the reference has no {type(value).__name__}")
