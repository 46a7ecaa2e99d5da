"""The order in which everything is measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


@dataclass(frozen=True, slots=True)
class Cell:
    """One trace on one architecture: indices into the experiment's repeats, levels and architectures."""

    repeat: int
    level: int
    architecture: int


class Order(StrEnum):
    """Of the architectures within a round."""

    ROTATED = "rotated"  # each time one further on (A B, B A, …): a machine that slowly gets slower favours none
    FIXED = "fixed"  # as they are in the file
    RANDOM = "random"  # the seed's


def schedule(
    repeats: int, levels: int, architectures: int, order: Order = Order.ROTATED, seed: int = 0
) -> tuple[Cell, ...]:
    """Interleaved rounds: for each repeat and level, every architecture in turn."""
    return tuple(
        Cell(repeat, level, place)
        for repeat in range(repeats)
        for level in range(levels)
        for place in _places(architectures, repeat, level, order, seed)
    )


def _places(architectures: int, repeat: int, level: int, order: Order, seed: int) -> list[int]:
    match order:
        case Order.FIXED:
            return list(range(architectures))
        case Order.RANDOM:
            return list(map(int, np.random.default_rng((seed, repeat, level)).permutation(architectures)))
        case Order.ROTATED:
            return [(place + repeat + level) % architectures for place in range(architectures)]


def first_row(cell: Cell, levels: int, requests: int) -> int:
    """Where a cell's trace begins in the seed's sequence: the same for every architecture, and for no other cell."""
    return (cell.repeat * levels + cell.level) * requests
