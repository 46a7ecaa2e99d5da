"""The recurrent mixer: linear attention and state spaces of the kinds that config.Recurrent tells apart. What it
carries from token to token is the cache view's business, as with attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model import config
from model.kernels.recurrence import Fed, Mixing

if TYPE_CHECKING:
    from model.attention import Surroundings
    from model.kernels.recurring import CompiledMixing


class RecurrentMixer(nn.Module):
    """One projection gives a token's queries, keys and values, and what its gate, its decay and its strength are made
    of; the view carries the states on; another projection leads back."""

    def __init__(self, value: config.Recurrent, width: int, layer: int) -> None:
        """layer: index among the recurrent branches."""
        super().__init__()
        self.value, self.layer = value, layer
        gate_rank, decay_rank = (None if part is None else part.rank for part in (value.gate, value.learned))
        self.parts = (
            value.mixed,
            0 if value.gate is None else gate_rank or value.inner,
            decay_rank or value.steps,
            value.heads if value.rule == "delta" else 0,
        )
        self.into = nn.Linear(width, sum(self.parts), bias=False)
        self.gate_up = nn.Linear(gate_rank, value.inner, bias=False) if gate_rank else nn.Identity()
        self.decay_up = nn.Linear(decay_rank, value.steps, bias=False) if decay_rank else nn.Identity()
        kept = value.convolution
        self.taps = None if kept is None else nn.Parameter(torch.empty(value.mixed, kept.width))
        self.tap_bias = nn.Parameter(torch.zeros(value.mixed)) if kept is not None and kept.bias else None
        self.rate = None if value.learned is None else nn.Parameter(torch.zeros(value.heads))  # its logarithm
        self.step_bias = None if value.learned is None else nn.Parameter(torch.zeros(value.steps))
        self.skip = nn.Parameter(torch.ones(value.heads)) if value.skip else None
        weights = value.value_dim if value.norm_over == "head" else value.inner
        offset = 0.0 if value.norm is None else value.norm.offset
        self.norm = None if value.norm is None else nn.Parameter(torch.full((weights,), 1.0 - offset))
        self.out = nn.Linear(value.inner, width, bias=False)
        self.compiled: CompiledMixing | None = None
        """Given by a pass (model/kernels/recurring.py), for views that serve."""

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        """x (tokens, width) → the same shape."""
        mixed, gate, decay, strength = self.into(x).split(self.parts, dim=-1)
        fed = Fed(mixed, self.gate_up(gate), self.decay_up(decay), strength)
        out: Tensor = self.out(around.cache.carry(self.layer, self.mixing(), fed))
        return out

    def spread(self) -> None:
        """Start with heads that forget slowly and fast, steps of 0.001 to 0.1 and rates of 1 to 16 (arXiv:2405.21060),
        and with a convolution and a norm that change nothing."""
        value = self.value
        if self.rate is not None and self.step_bias is not None:
            self.rate.copy_(torch.linspace(1, 16, value.heads).log())
            each, steps = value.steps // value.heads, torch.logspace(-3, -1, value.heads)
            bias = torch.log(torch.expm1(steps))  # softplus of which they are
            if (
                value.learned is not None and (bound := value.learned.bound) is not None
            ):  # bound * sigmoid(rate * bias) is to be rate * step
                rate = self.rate.float().exp()
                bias = torch.logit((rate * steps / bound).clamp(max=0.9)) / rate
            self.step_bias.copy_(bias.repeat_interleave(each))
        if self.taps is not None:
            self.taps.zero_()[:, -1] = 1
        if self.skip is not None:
            self.skip.fill_(1)
        if self.norm is not None and value.norm is not None:
            self.norm.fill_(1 - value.norm.offset)

    def mixing(self) -> Mixing:
        """What the states are mixed with, whatever the step."""
        weights = self.taps, self.tap_bias, self.rate, self.step_bias, self.skip, self.norm
        return Mixing(self.value, *weights, self.compiled)
