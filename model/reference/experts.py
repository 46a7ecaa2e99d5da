"""Feed-forwards, and mixtures of them token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model import config
from model.reference.arithmetic import Weights, linear, sigmoid


@dataclass(frozen=True, slots=True)
class Routed:
    """What one mixture layer decided, each (tokens, top-k): expert ids in order of choice; whether the expert had room
    for the token; the weight its output had (0 without room)."""

    experts: Tensor
    kept: Tensor
    gates: Tensor


def feed_forward(x: Tensor, value: config.FeedForward, w: Weights) -> Tensor:
    """`up` holds the gate's rows before its own when gated."""
    hidden = linear(x, w.under("up"))
    if value.gated:
        hidden = gated(hidden[..., : value.hidden], hidden[..., value.hidden :], value.activation)
    else:
        assert isinstance(value.activation, str)
        hidden = activated(hidden, value.activation)
    return linear(hidden, w.under("down"))


def gated(gate: Tensor, up: Tensor, value: config.Activation | config.ClampedGate) -> Tensor:
    if not isinstance(value, config.ClampedGate):
        return activated(gate, value) * up
    gate, up = gate.clamp(max=value.limit), up.clamp(-value.limit, value.limit)
    return (up + 1) * gate * sigmoid(value.slope * gate)


def activated(x: Tensor, name: config.Activation) -> Tensor:
    match name:
        case "relu":
            return x * (x > 0)
        case "relu2":
            return x * x * (x > 0)
        case "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            return x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()) / 2
        case "silu":
            return x * sigmoid(x)


def mixture(x: Tensor, value: config.MoE, w: Weights) -> tuple[Tensor, Routed]:
    """Token by token in order; with a capacity an expert counts everything that asks for it."""
    capacity = value.router.capacity
    room = math.inf if capacity is None else int(capacity.factor * capacity.tokens / value.experts)
    asked = [0] * value.experts
    rows: list[Tensor] = []
    decisions: list[tuple[list[int], list[bool], list[float]]] = []
    for row in x:
        experts, gates = route(row, value, w.under("router"))
        kept = [asked[expert] < room for expert in experts]
        gates = [gate if fits else 0.0 for gate, fits in zip(gates, kept, strict=True)]
        for expert in experts:
            asked[expert] += 1
        rows.append(mixed(row, experts, kept, gates, value, w))
        decisions.append((experts, kept, gates))
    chosen, held, weights = (torch.tensor(column) for column in zip(*decisions, strict=True))
    return torch.stack(rows), Routed(chosen, held, weights)


def mixed(x: Tensor, experts: list[int], kept: list[bool], gates: list[float], value: config.MoE, w: Weights) -> Tensor:
    """The weighed experts that had room for one token x (width,), and the shared one."""
    y = torch.zeros_like(x)
    for expert, fits, gate in zip(experts, kept, gates, strict=True):
        if fits and value.weigh == "input":
            y = y + feed_forward(gate * x, value.expert, expert_weights(w, expert))
        elif fits:
            y = y + gate * feed_forward(x, value.expert, expert_weights(w, expert))
    if value.shared is None:
        return y
    shared = feed_forward(x, value.shared, w.under("shared"))
    return y + (shared * sigmoid(linear(x, w.under("shared_gate"))) if value.shared_gate else shared)


def expert_weights(w: Weights, expert: int) -> Weights:
    """One expert's slice of the stacked weights, under the names of a plain feed-forward."""
    stacked = {"up.weight": "up", "down.weight": "down", "up.bias": "up_bias", "down.bias": "down_bias"}
    found = {name: w.get(f"experts.{source}") for name, source in stacked.items()}
    return Weights({name: tensor[expert] for name, tensor in found.items() if tensor is not None})


def route(x: Tensor, value: config.MoE, w: Weights) -> tuple[list[int], list[float]]:
    """Expert ids of one token, best first, and their weights; a correction chooses but does not weigh."""
    if not isinstance(value.router.score, str) or value.router.norm or value.router.expert_gain:
        raise NotImplementedError("the reference has no sparse mixer, and no norm or expert gains of a router")
    logits = w["weight"] @ x
    if value.router.bias:
        logits = logits + w["bias"]
    scores = scored(logits.tolist(), value.router.score)
    corrections = w["correction"].tolist() if value.router.correction else [0.0] * value.experts
    worth = [score + correction for score, correction in zip(scores, corrections, strict=True)]
    experts = sorted(allowed(worth, value.router.groups), key=lambda e: -worth[e])[: value.active]
    total = sum(scores[e] for e in experts) if value.router.normalise else 1.0
    return experts, [scores[e] / total * value.router.scale for e in experts]


def scored(logits: list[float], kind: str) -> list[float]:
    match kind:
        case "softmax":
            total = sum(math.exp(x) for x in logits)
            return [math.exp(x) / total for x in logits]
        case "sigmoid":
            return [1 / (1 + math.exp(-x)) for x in logits]
        case _:
            return [math.sqrt(math.log(1 + math.exp(x))) for x in logits]


def allowed(worth: list[float], groups: config.Groups | None) -> list[int]:
    """Experts of the best groups (arXiv:2405.04434 §2.2.1); a group is worth its best or the sum of its two best."""
    if groups is None:
        return list(range(len(worth)))
    size, best = len(worth) // groups.count, 1 if groups.score == "max" else 2
    members = [range(g * size, (g + 1) * size) for g in range(groups.count)]
    members.sort(key=lambda group: -sum(sorted((worth[e] for e in group), reverse=True)[:best]))
    return [e for group in members[: groups.kept] for e in group]
