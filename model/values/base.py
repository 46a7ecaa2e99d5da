"""What every value of an architecture is built with: checks, their error, and the norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LARGEST = 1e30
"""Of any number: float32 holds it, and so do a few of them multiplied."""


class ConfigError(ValueError):
    """A value of an architecture contradicts itself or another; the message has the field and the numbers."""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def positive(**numbers: float | None) -> None:
    """Numbers above zero; None is a number that is not there. What is not a number at all is refused too."""
    for name, number in numbers.items():
        if number is not None:
            check(number > 0, f"{name} must be positive, got {shown(number)}")
            check(number <= LARGEST, f"{name} must be at most {LARGEST:g}, got {shown(number)}")


def within(low: float = -LARGEST, high: float = LARGEST, **numbers: float) -> None:
    for name, number in numbers.items():
        check(low <= number <= high, f"{name} must be from {low:g} to {high:g}, got {shown(number)}")


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True)
class Norm:
    """RMS norm (arXiv:1910.07467) or layer norm (arXiv:1607.06450). A stored weight w acts as `offset + w`."""

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    weight: bool = True
    bias: bool = False
    offset: float = 0.0

    def __post_init__(self) -> None:
        positive(eps=self.eps)
        within(offset=self.offset)
