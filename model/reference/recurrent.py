"""Recurrent mixers, one token and one head after another, from their equations."""

from __future__ import annotations

import torch
from torch import Tensor

from model import config
from model.reference.arithmetic import Weights, linear, norm, sigmoid


def recurrent(x: Tensor, value: config.Recurrent, w: Weights) -> Tensor:
    """x (T, width) → the same."""
    fed = linear(x, w.under("into"))
    gated = 0 if value.gate is None else value.gate.rank or value.inner
    strengths = value.heads if value.rule == "delta" else 0
    mixed, gate, decay, strength = fed.split(
        (value.mixed, gated, fed.shape[1] - value.mixed - gated - strengths, strengths), dim=-1
    )
    if (up := w.get("gate_up.weight")) is not None:
        gate = gate @ up.T
    if (up := w.get("decay_up.weight")) is not None:
        decay = decay @ up.T
    mixed = silu(convolved(mixed, value, w))
    read = torch.stack([head_of(h, mixed, decay, strength, value, w) for h in range(value.heads)], dim=1)
    return linear(closed(read.flatten(1), gate, value, w), w.under("out"))


def convolved(mixed: Tensor, value: config.Recurrent, w: Weights) -> Tensor:
    if value.convolution is None:
        return mixed
    taps, rows = w["taps"], []
    for t in range(len(mixed)):
        seen = mixed[max(0, t - value.convolution.width + 1) : t + 1]
        rows.append((seen * taps[:, -len(seen) :].T).sum(0))
    y = torch.stack(rows)
    return y + w["tap_bias"] if value.convolution.bias else y


def head_of(h: int, mixed: Tensor, decay: Tensor, strength: Tensor, value: config.Recurrent, w: Weights) -> Tensor:
    """What is read from the state of head h at each token, (T, value_dim)."""
    dim, wide = value.key_dim, value.value_dim
    at = h // (value.heads // value.keys) * dim
    behind = value.keys * dim
    queries, keys = mixed[:, at : at + dim], mixed[:, behind + at : behind + at + dim]
    values = mixed[:, 2 * behind + h * wide : 2 * behind + (h + 1) * wide]
    if value.rule == "delta":
        queries = queries / (queries.square().sum(-1, keepdim=True) + 1e-6).sqrt() / dim**0.5
        keys = keys / (keys.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    state, rows = mixed.new_zeros(dim, wide), []
    for t, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        entering = v
        match value.decay:
            case config.FixedDecay(scale):
                kept = mixed.new_tensor(-scale * 2 ** (-8 * (h + 1) / value.heads)).exp()
            case config.LearnedDecay(over, _, discrete, bound):
                own = slice(h * dim, (h + 1) * dim) if over == "key" else slice(h, h + 1)
                drive, rate = decay[t, own] + w["step_bias"][own], w["rate"][h].exp()
                step = (1 + drive.exp()).log()
                lost = rate * step if bound is None else bound * sigmoid(rate * drive)
                kept = (-lost).exp()[:, None]
                entering = v * step if discrete else v
        state = kept * state
        if value.rule == "delta":
            entering = sigmoid(strength[t, h]) * (entering - k @ state)
        state = state + torch.outer(k, entering)
        rows.append(q @ state)
    read = torch.stack(rows)
    return read + values * w["skip"][h] if value.skip else read


def closed(read: Tensor, gate: Tensor, value: config.Recurrent, w: Weights) -> Tensor:
    """read (T, heads * value_dim), normed and gated."""
    if value.gate is None:
        return normed(read, value, w)
    opened = silu(gate) if value.gate.activation == "silu" else sigmoid(gate)
    return normed(read * opened, value, w) if value.gate.before_norm else normed(read, value, w) * opened


def normed(read: Tensor, value: config.Recurrent, w: Weights) -> Tensor:
    if value.norm is None:
        return read
    size = {"head": value.value_dim, "key_head": value.inner // value.keys, "all": value.inner}[value.norm_over]
    weight, parts = w["norm"], []
    for start in range(0, value.inner, size):
        own = weight if value.norm_over == "head" else weight[start : start + size]
        parts.append(norm(read[:, start : start + size], value.norm, Weights({"weight": own})))
    return torch.cat(parts, dim=-1)


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)
