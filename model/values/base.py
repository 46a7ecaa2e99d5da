"""What every value of an architecture is built with: checks, their error, and the norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class ConfigError(ValueError):
    """A value of an architecture contradicts itself or another; the message has the field and the numbers."""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def positive(**numbers: float) -> None:
    for name, number in numbers.items():
        check(number > 0, f"{name} must be positive, got {number}")


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
