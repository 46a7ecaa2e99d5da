"""Positions as values: rotary with its scalings, ALiBi, buckets, and those at the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from model.values.base import check, positive


@dataclass(frozen=True)
class LinearScaling:
    """Positions are divided by `factor` (arXiv:2306.15595)."""

    factor: float

    def __post_init__(self) -> None:
        positive(factor=self.factor)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071). `magnitude` multiplies cosine and sine; None means 0.1 ln(factor) + 1."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        positive(factor=self.factor, original_context=self.original_context, magnitude=self.magnitude)
        positive(beta_fast=self.beta_fast, beta_slow=self.beta_slow)
        check(
            self.beta_fast >= self.beta_slow,
            f"beta_fast={self.beta_fast} must not be below beta_slow={self.beta_slow}",
        )


@dataclass(frozen=True)
class Llama3Scaling:
    """Long wavelengths divided by `factor`, short ones kept, a blend between (arXiv:2407.21783); a step where both
    bounds are one."""

    factor: float
    original_context: int
    low_frequency: float = 1.0
    high_frequency: float = 4.0

    def __post_init__(self) -> None:
        positive(factor=self.factor, original_context=self.original_context)
        positive(low_frequency=self.low_frequency, high_frequency=self.high_frequency)
        check(
            self.high_frequency >= self.low_frequency,
            f"high_frequency={self.high_frequency} must not be below low_frequency={self.low_frequency}",
        )


@dataclass(frozen=True)
class ProportionalScaling:
    """Frequencies are spread over the whole head, and only the first `fraction` of its pairs turn (Gemma 4)."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        positive(factor=self.factor)


Scaling: TypeAlias = LinearScaling | YarnScaling | Llama3Scaling | ProportionalScaling


@dataclass(frozen=True)
class Rotary:
    """RoPE (arXiv:2104.09864) on the first `fraction` of each head.

    `half` pairs dimension i with i + n/2 (the layout of Hugging Face checkpoints), `interleaved` pairs 2i with 2i + 1.
    """

    theta: float = 10000.0
    fraction: float = 1.0
    layout: Literal["half", "interleaved"] = "half"
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        positive(theta=self.theta)
        check(0 < self.fraction <= 1, f"fraction must be in (0, 1], got {self.fraction}")

    def counted(self, dim: int) -> int:
        """Over how many of a head's `dim` dimensions the frequencies are spread."""
        return dim if isinstance(self.scaling, ProportionalScaling) else int(dim * self.fraction)

    def rotated(self, dim: int) -> int:
        """How many of a head's `dim` dimensions stand in the pairs that are turned (by nothing, in the tail of a
        proportional scaling): an odd count takes one more."""
        return self.counted(dim) + self.counted(dim) % 2


@dataclass(frozen=True)
class Alibi:
    """A bias linear in distance (arXiv:2108.12409); `maximum` is the exponent of the steepest slope's denominator.

    `scale` multiplies every slope (Falcon adds the bias before its scores are scaled).
    """

    maximum: float = 8.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(maximum=self.maximum, scale=self.scale)


@dataclass(frozen=True)
class Buckets:
    """T5's learned bias by bucketed distance (arXiv:1910.10683): half of `count` buckets are single distances, the rest
    grow logarithmically up to `distance`. All layers of a stack with the same value share one table."""

    count: int = 32
    distance: int = 128

    def __post_init__(self) -> None:
        positive(count=self.count, distance=self.distance)
        check(self.distance > self.count // 2, f"distance={self.distance} must exceed half of count={self.count}")


@dataclass(frozen=True)
class Learned:
    """A learned table of positions at the embedding; position p reads row p + offset."""

    rows: int
    offset: int = 0

    def __post_init__(self) -> None:
        positive(rows=self.rows)
        check(0 <= self.offset < self.rows, f"offset={self.offset} must be in [0, rows={self.rows})")


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines at the embedding (arXiv:1706.03762)."""

    layout: Literal["half", "interleaved"] = "interleaved"
