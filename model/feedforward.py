"""Feed-forward branches and their activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import config

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


def activate(value: config.FeedForward, x: Tensor) -> Tensor:
    """x (…, hidden), or (…, 2 * hidden) with the gate first when gated → (…, hidden)."""
    if isinstance(value.activation, config.ClampedGate):
        gate, up = x.chunk(2, dim=-1)
        limit, slope = value.activation.limit, value.activation.slope
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return (up + 1) * gate * torch.sigmoid(slope * gate)
    act = ACTIVATIONS[value.activation]
    if not value.gated:
        return act(x)
    gate, up = x.chunk(2, dim=-1)
    return act(gate) * up


class FeedForward(nn.Module):
    """down(activate(up x)); `up` holds gate and up projections side by side when gated."""

    def __init__(self, value: config.FeedForward, width: int) -> None:
        super().__init__()
        self.value = value
        self.up = nn.Linear(width, value.hidden * (2 if value.gated else 1), bias=value.bias)
        self.down = nn.Linear(value.hidden, width, bias=value.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(activate(self.value, self.up(x)))
        return y
