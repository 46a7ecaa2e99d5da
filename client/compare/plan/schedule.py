"""How often and in which order everything is measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

SURE_ROUNDS = 5  # with fewer a verdict only leans


@dataclass(frozen=True, slots=True)
class Cell:
    """One trace on one architecture: indices into the experiment's repeats, levels and architectures."""

    repeat: int
    level: int
    architecture: int


class Order(StrEnum):
    """In which order a round measures the architectures."""

    ROTATED = "rotated"  # balanced (A B, B A, B A, A B, …): drift favours none, and each follows each other one
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
            row = [(place + repeat // 2 + level) % architectures for place in _zigzag(architectures)]
            return row[::-1] if repeat % 2 else row


def _zigzag(count: int) -> list[int]:
    """0, 1, -1, 2, -2, …: in all its rotations everybody directly follows everybody else as often (Williams, 1949),
    of an odd count in those and their reverses. A row and its reverse, one after the other, cancel a steady drift."""
    return [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]


def first_row(cell: Cell, requests: Sequence[int]) -> int:
    """Where a cell's trace begins in the seed's sequence: the same for every architecture, and for no other cell.
    requests: of each level."""
    return cell.repeat * sum(requests) + sum(requests[: cell.level])
