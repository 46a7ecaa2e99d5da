"""When requests are sent. Pure: the same value, count and seed give the same instants everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeAlias

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
class Ramp:
    """A rate that grows evenly from `rate` to `until` over the run (or falls to it), without chance."""

    rate: float
    until: float

    def __post_init__(self) -> None:
        _positive(rate=self.rate, until=self.until)


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
    RAMP = "ramp"

    def at(self, rate: float, shape: float = 1.0, until: float = 0.0) -> Open:
        """The law at a rate; only gamma has a shape, only a ramp a last rate. Raises ValueError."""
        if self is Kind.GAMMA:
            return Gamma(rate, shape)
        if self is Kind.RAMP:
            return Ramp(rate, until)
        return Poisson(rate) if self is Kind.POISSON else Constant(rate)


Open: TypeAlias = Constant | Poisson | Gamma | Ramp
Drawn: TypeAlias = Open | Closed
Arrivals: TypeAlias = Drawn | Recorded


def offsets(arrivals: Drawn, count: int, seed: int | tuple[int, ...]) -> tuple[float, ...]:
    """Seconds from the start at which each of `count` requests is due; the first at 0, all 0 in a closed loop.

    The gaps are scaled so that their mean is exactly 1 / rate: chance then decides on the order of dense and sparse
    moments, not on how much load there was.
    """
    if isinstance(arrivals, Closed) or count < 2:
        return (0.0,) * count
    if isinstance(arrivals, Ramp):
        return _ramp(arrivals, count)
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


def _ramp(ramp: Ramp, count: int) -> tuple[float, ...]:
    """Where the integral of the rate, a parabola, passes 0, 1, 2, …; the last request comes at the last rate."""
    first, last = ramp.rate, ramp.until
    seconds = 2 * (count - 1) / (first + last)
    bend = (last - first) / seconds
    # The root of bend / 2 t² + first t = k, in the form that also holds where bend is 0.
    roots = (2 * k / (first + (max(0.0, first * first + 2 * bend * k)) ** 0.5) for k in range(count))
    return tuple(round(t, 9) for t in roots)


def to_json(arrivals: Arrivals) -> dict[str, Any]:
    """{"kind": …} and the numbers of the law; `from_json` reads it."""
    return {"kind": type(arrivals).__name__.lower(), **asdict(arrivals)}


def from_json(data: Mapping[str, Any]) -> Arrivals:
    """What `to_json` wrote. Raises KeyError and TypeError where it is not one."""
    numbers = {name: value for name, value in data.items() if name != "kind"}
    return _KINDS[data["kind"]](**numbers)


_KINDS: dict[str, Callable[..., Arrivals]] = {
    kind.__name__.lower(): kind for kind in (Constant, Poisson, Gamma, Ramp, Closed, Recorded)
}


def amount(arrivals: Arrivals) -> float:
    """How much load it is, to order those of one law by; 0 where the law does not say."""
    match arrivals:
        case Closed(concurrency):
            return concurrency
        case Recorded():
            return 0.0
        case _:
            return arrivals.rate


def describe(arrivals: Arrivals) -> str:
    """The arrivals in a few words, for tables."""
    match arrivals:
        case Constant(rate):
            return f"{rate:g}/s, constant"
        case Poisson(rate):
            return f"{rate:g}/s, Poisson"
        case Gamma(rate, shape):
            return f"{rate:g}/s, gamma of shape {shape:g}"
        case Ramp(rate, until):
            return f"{rate:g}/s growing to {until:g}/s"
        case Closed(concurrency):
            return f"{concurrency} at a time"
        case Recorded():
            return "as recorded"


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be positive, got {number}")
