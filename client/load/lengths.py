"""How long prompts and answers are: one number, a law, or a list of measured ones. Pure and seeded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from `low` to `high` is as likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"uniform lengths need 1 <= low <= high, got {self.low} and {self.high}")


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half are shorter than `median`; `sigma` is the spread of the logarithm; none is longer than `most`."""

    median: float
    sigma: float
    most: int

    def __post_init__(self) -> None:
        if not (self.median >= 1 and self.sigma > 0 and self.most >= self.median):
            raise ValueError(
                f"log-normal lengths need median >= 1, sigma > 0 and most >= median, "
                f"got {self.median:g}, {self.sigma:g} and {self.most}"
            )


@dataclass(frozen=True, slots=True)
class Listed:
    """Lengths that were measured somewhere, drawn with replacement."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values or min(self.values) < 1:
            raise ValueError("listed lengths must be whole numbers of at least 1, and at least one of them")


Lengths: TypeAlias = int | Uniform | LogNormal | Listed


def most(lengths: Lengths) -> int:
    """The longest there can be."""
    match lengths:
        case Uniform(high=high):
            return high
        case LogNormal(most=top):
            return top
        case Listed(values):
            return max(values)
        case _:
            return lengths


def draw_lengths(lengths: Lengths, count: int, seed: int | tuple[int, ...]) -> tuple[int, ...]:
    """`count` lengths, each at least 1."""
    rng = np.random.default_rng(seed)
    match lengths:
        case Uniform(low, high):
            drawn = rng.integers(low, high + 1, count)
        case LogNormal(median, sigma, top):
            drawn = np.clip(np.rint(median * np.exp(sigma * rng.standard_normal(count))), 1, top).astype(np.int64)
        case Listed(values):
            drawn = rng.choice(np.array(values), count)
        case _:
            return (lengths,) * count
    return tuple(int(n) for n in drawn)


def read_lengths(path: Path) -> Listed:
    """One whole number a line. Raises ValueError with the line, and OSError."""
    return lengths_of(path.read_text(), str(path))


def lengths_of(text: str, name: str) -> Listed:
    """One whole number a line of a file's text. Raises ValueError with the line."""
    values = []
    for number, line in enumerate(text.split("\n"), start=1):
        if word := line.strip():
            if not word.isdecimal() or int(word) < 1:
                raise ValueError(f"line {number} of {name} is not a whole number of at least 1: {word!r}")
            values.append(int(word))
    if not values:
        raise ValueError(f"{name} holds no lengths")
    return Listed(tuple(values))


def parse_lengths(text: str) -> Lengths:
    """Read the lengths that a flag asks for: `64`, `uniform:16:128`, `log-normal:MEDIAN:SIGMA:MOST` or `file:PATH`.
    Raises ValueError."""
    kind, _, rest = text.partition(":")
    try:
        if kind == "uniform":
            low, high = rest.split(":")
            return Uniform(int(low), int(high))
        if kind == "log-normal":
            median, sigma, top = rest.split(":")
            return LogNormal(float(median), float(sigma), int(top))
        if kind == "file":
            return read_lengths(Path(rest))
        if text.isdecimal() and int(text) > 0:
            return int(text)
    except ValueError as error:
        raise ValueError(f"lengths {text!r}: {error}") from error
    raise ValueError(f"lengths {text!r} are not N, uniform:LOW:HIGH, log-normal:MEDIAN:SIGMA:MOST or file:PATH")
