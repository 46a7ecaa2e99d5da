"""When requests are sent. Pure: the same value, count and seed give the same instants everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np


@dataclass(frozen=True, slots=True)
class Constant:
    """One request every 1 / rate seconds."""

    rate: float

    def __post_init__(self) -> None:
        _positive(rate=self.rate)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent users: exponential gaps with a mean of 1 / rate seconds."""

    rate: float

    def __post_init__(self) -> None:
        _positive(rate=self.rate)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma gaps with a mean of 1 / rate: shape 1 is Poisson, below 1 comes in bursts, above is calm."""

    rate: float
    shape: float

    def __post_init__(self) -> None:
        _positive(rate=self.rate, shape=self.shape)


@dataclass(frozen=True, slots=True)
class Closed:
    """So many users, each sending its next request when the last is answered: the server sets the pace."""

    concurrency: int

    def __post_init__(self) -> None:
        _positive(concurrency=self.concurrency)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The instants that a trace came with."""


class Kind(StrEnum):
    """The laws of an open loop, by name."""

    POISSON = "poisson"
    CONSTANT = "constant"
    GAMMA = "gamma"

    def at(self, rate: float, shape: float = 1.0) -> Constant | Poisson | Gamma:
        """The law at a rate; only gamma has a shape. Raises ValueError."""
        if self is Kind.GAMMA:
            return Gamma(rate, shape)
        return Poisson(rate) if self is Kind.POISSON else Constant(rate)


Drawn: TypeAlias = Constant | Poisson | Gamma | Closed
Arrivals: TypeAlias = Drawn | Recorded


def offsets(arrivals: Drawn, count: int, seed: int | tuple[int, ...]) -> tuple[float, ...]:
    """Seconds from the start at which each of `count` requests is due; the first at 0, all 0 in a closed loop.

    The gaps are scaled so that their mean is exactly 1 / rate: chance then decides on the order of dense and sparse
    moments, not on how much load there was.
    """
    if isinstance(arrivals, Closed) or count < 2:
        return (0.0,) * count
    gaps = _gaps(arrivals, count - 1, np.random.default_rng(seed))
    gaps *= (count - 1) / arrivals.rate / gaps.sum()
    return (0.0, *(round(float(t), 9) for t in np.cumsum(gaps)))


def _gaps(arrivals: Constant | Poisson | Gamma, count: int, rng: np.random.Generator) -> np.ndarray:
    """Gaps in any unit."""
    match arrivals:
        case Constant():
            return np.ones(count)
        case Poisson():
            return rng.exponential(size=count)
        case Gamma(shape=shape):
            return rng.gamma(shape, size=count)


def describe(arrivals: Arrivals) -> str:
    """In a few words, for tables."""
    match arrivals:
        case Constant(rate):
            return f"{rate:g}/s, constant"
        case Poisson(rate):
            return f"{rate:g}/s, Poisson"
        case Gamma(rate, shape):
            return f"{rate:g}/s, gamma of shape {shape:g}"
        case Closed(concurrency):
            return f"{concurrency} at a time"
        case Recorded():
            return "as recorded"


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be positive, got {number}")
