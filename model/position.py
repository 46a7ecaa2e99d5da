"""Positions: rotary tables with their scalings, ALiBi slopes, sinusoidal and learned embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from model import config


def inverse_frequencies(rotary: config.Rotary, dim: int) -> Tensor:
    """Radians a position turns each pair of the first rotated dimensions of a head of `dim`; float32 (rotated / 2,)."""
    counted = rotary.counted(dim)
    index = torch.arange(0, counted, 2, dtype=torch.float32, device="cpu")  # real even in a model on the meta device
    plain = 1.0 / rotary.theta ** (index / counted)
    match rotary.scaling:
        case None:
            return plain
        case config.LinearScaling(factor):
            return plain / factor
        case config.YarnScaling():
            return _yarn(plain, rotary.scaling, rotary.theta, counted)
        case config.Llama3Scaling():
            return _llama3(plain, rotary.scaling)
        case config.ProportionalScaling(factor):
            return torch.where(index < int(dim * rotary.fraction), plain / factor, 0.0)


def yarn_ramp(scaling: config.YarnScaling, theta: float, turned: int) -> tuple[float, float]:
    """Pair indices between which YaRN blends from kept to divided frequencies (arXiv:2309.00071 eq. 23)."""

    def pair(rotations: float) -> float:
        return turned * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, turned - 1)


def _yarn(plain: Tensor, scaling: config.YarnScaling, theta: float, turned: int) -> Tensor:
    low, high = yarn_ramp(scaling, theta, turned)
    index = torch.arange(len(plain), dtype=torch.float32, device="cpu")
    divided = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / scaling.factor * divided + plain * (1 - divided)


def _llama3(plain: Tensor, scaling: config.Llama3Scaling) -> Tensor:
    turns = scaling.original_context * plain / (2 * math.pi)
    low, high = scaling.low_frequency, scaling.high_frequency
    kept = (turns >= low).float() if low == high else ((turns - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * (1 - kept) + plain * kept


def magnitude(rotary: config.Rotary) -> float:
    """The factor of cosine and sine: 1 but for YaRN."""
    if not isinstance(rotary.scaling, config.YarnScaling):
        return 1.0
    if rotary.scaling.magnitude is not None:
        return rotary.scaling.magnitude
    return 1.0 if rotary.scaling.factor <= 1 else 0.1 * math.log(rotary.scaling.factor) + 1.0


class RotaryTable(nn.Module):
    """Cosines and sines of one rotary value for heads of one dimension.

    forward(positions (tokens,)) → (cos, sin), each (tokens, 1, rotated / 2), ready to broadcast over heads.
    """

    frequencies: Tensor

    def __init__(self, rotary: config.Rotary, dim: int) -> None:
        super().__init__()
        self.magnitude = magnitude(rotary)
        self.register_buffer("frequencies", inverse_frequencies(rotary, dim), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = positions[:, None, None].float() * self.frequencies
        return (angles.cos() * self.magnitude).to(dtype), (angles.sin() * self.magnitude).to(dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor], layout: str) -> Tensor:
    """Rotate the first dimensions of x (tokens, heads, dim) by the angles of `turn` = (cos, sin)."""
    cos, sin = turn
    turned = 2 * cos.shape[-1]
    head, rest = (x, None) if turned == x.shape[-1] else (x[..., :turned], x[..., turned:])
    if layout == "half":
        a, b = head.chunk(2, dim=-1)
        parts = [a * cos - b * sin, b * cos + a * sin]
        return torch.cat(parts if rest is None else [*parts, rest], dim=-1)
    a, b = head[..., 0::2], head[..., 1::2]
    y = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return y if rest is None else torch.cat((y, rest), dim=-1)


Bias: TypeAlias = Callable[[Tensor], Tensor]
"""Distances from query to key, broadcast over heads (B, 1, Q, L) → what is added to the scores (B, H, Q, L)."""


class BucketTable(nn.Module):
    """T5's learned bias of one stack. forward(positions, dtype) → the Bias; positions have no part in it.

    In a stack that sees both ways half of the buckets are for keys that come after the query.
    """

    def __init__(self, value: config.Buckets, heads: int, both_ways: bool) -> None:
        super().__init__()
        self.value, self.both_ways = value, both_ways
        self.table = nn.Embedding(value.count, heads)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Bias:
        return self.bias

    def bias(self, distance: Tensor) -> Tensor:
        rows: Tensor = self.table(bucket(distance.squeeze(1), self.value, self.both_ways))
        return rows.movedim(-1, 1)


def bucket(distance: Tensor, value: config.Buckets, both_ways: bool) -> Tensor:
    """The row of the table for distances query - key: 0, 1, 2, … each its own, then logarithmically wider ones."""
    count = value.count // 2 if both_ways else value.count
    side = (distance < 0) * count if both_ways else 0
    distance = distance.abs() if both_ways else distance.clamp(min=0)
    single = count // 2
    growth = torch.log(distance.clamp(min=1) / single) / math.log(value.distance / single)
    wide = (single + (growth * (count - single)).long()).clamp(max=count - 1)
    return torch.where(distance < single, distance, wide) + side


def alibi_slopes(heads: int, maximum: float = 8.0) -> Tensor:
    """Slope of each head, float32 (heads,): a geometric sequence for powers of two, else two interleaved ones."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-maximum * (i + 1) / n) for i in range(n)]

    whole = 2 ** math.floor(math.log2(heads))
    slopes = geometric(whole) + geometric(2 * whole)[0::2][: heads - whole]
    return torch.tensor(slopes, dtype=torch.float32, device="cpu")


def sinusoids(positions: Tensor, width: int, layout: str) -> Tensor:
    """The fixed table at `positions` (tokens,) → float32 (tokens, width)."""
    pairs = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
    rates = torch.exp(pairs * (-math.log(1e4) / width))
    angles = positions[:, None].float() * rates
    if layout == "half":
        return torch.cat((angles.sin(), angles.cos()), dim=-1)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class LearnedPositions(nn.Module):
    """forward(positions (tokens,)) → rows of a learned table (tokens, width)."""

    def __init__(self, value: config.Learned, width: int) -> None:
        super().__init__()
        self.offset = value.offset
        self.table = nn.Embedding(value.rows, width)

    def forward(self, positions: Tensor) -> Tensor:
        rows: Tensor = self.table(positions + self.offset)
        return rows


class SinusoidalPositions(nn.Module):
    """forward(positions (tokens,)) → fixed sines and cosines (tokens, width)."""

    def __init__(self, value: config.Sinusoidal, width: int) -> None:
        super().__init__()
        self.layout = value.layout
        self.width = width

    def forward(self, positions: Tensor) -> Tensor:
        return sinusoids(positions, self.width, self.layout)


EMBEDDED = {config.Learned: LearnedPositions, config.Sinusoidal: SinusoidalPositions}
