"""Positions, one pair of dimensions and one head at a time. Shape letters: T tokens, D width of a head."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from model import config


def turned(x: Tensor, position: object) -> Tensor:
    """x (T, D), row t turned to position t; unchanged when the position is no rotary one."""
    if not isinstance(position, config.Rotary):
        return x
    y, size = x.clone(), attention_factor(position.scaling)
    for first, second, rate in pairs(position, x.shape[-1]):
        angles = torch.arange(len(x), dtype=x.dtype) * rate
        cos, sin = size * angles.cos(), size * angles.sin()
        y[:, first] = x[:, first] * cos - x[:, second] * sin
        y[:, second] = x[:, first] * sin + x[:, second] * cos
    return y


def pairs(value: config.Rotary, dim: int) -> Iterator[tuple[int, int, float]]:
    """(dimension, its partner, radians a position) of every pair that turns (arXiv:2104.09864 §3.2)."""
    size = int(dim * value.fraction)
    count = (size + 1) // 2
    for i in range(count):
        first, second = (i, i + count) if value.layout == "half" else (2 * i, 2 * i + 1)
        yield first, second, scaled(value.theta ** (-2 * i / size), i, size, value)


def scaled(rate: float, pair: int, size: int, value: config.Rotary) -> float:
    """The rate of one pair under the scaling."""
    match value.scaling:
        case config.LinearScaling(factor):
            return rate / factor
        case config.YarnScaling():
            return mix(rate, rate / value.scaling.factor, yarn_share(value.scaling, value.theta, pair, size))
        case config.Llama3Scaling():
            wavelengths = value.scaling.original_context * rate / (2 * math.pi)
            low, high = value.scaling.low_frequency, value.scaling.high_frequency
            share = (wavelengths - low) / (high - low) if low < high else float(wavelengths >= low)
            return mix(rate / value.scaling.factor, rate, share)
        case None:
            return rate
        case _:
            raise NotImplementedError(f"the reference has no {type(value.scaling).__name__}")


def mix(below: float, above: float, share: float) -> float:
    """`below` at share 0 and under, `above` at 1 and over, a straight line between."""
    share = min(1.0, max(0.0, share))
    return below * (1 - share) + above * share


def yarn_share(value: config.YarnScaling, theta: float, pair: int, size: int) -> float:
    """How far a pair is from kept (0) to divided (1): a ramp over pair indices, as YaRN's own code has it."""

    def index_of(rotations: float) -> float:
        """The (fractional) pair that turns so often within the original context."""
        return math.log(value.original_context / (2 * math.pi * rotations), theta) * size / 2

    low, high = index_of(value.beta_fast), index_of(value.beta_slow)
    if value.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    return (pair - low) / (high - low or 0.001)


def attention_factor(scaling: config.Scaling | None) -> float:
    if not isinstance(scaling, config.YarnScaling):
        return 1.0
    return 0.1 * math.log(max(scaling.factor, 1)) + 1 if scaling.magnitude is None else scaling.magnitude


def alibi_slope(head: int, heads: int, maximum: float) -> float:
    """arXiv:2108.12409: 2^(-maximum * h / n) for n heads, a power of two; more take every other slope of 2n."""
    power = 1 << (heads.bit_length() - 1)
    if head < power:
        return 2 ** (-maximum * (head + 1) / power)
    return 2 ** (-maximum * (2 * (head - power) + 1) / (2 * power))


def sinusoid(position: int, width: int, layout: str) -> list[float]:
    """arXiv:1706.03762 §3.5; `half` has all sines before all cosines."""
    angles = [position / 10000 ** (2 * i / width) for i in range(width // 2)]
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    return sines + cosines if layout == "half" else [x for pair in zip(sines, cosines, strict=True) for x in pair]
