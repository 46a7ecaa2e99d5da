"""The order in which everything is measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One trace on one architecture: indices into the experiment's repeats, levels and architectures."""

    repeat: int
    level: int
    architecture: int


def schedule(repeats: int, levels: int, architectures: int) -> tuple[Cell, ...]:
    """Interleaved rounds: for each repeat and level, every architecture in turn, each time one further on in the order
    (A B, B A, …), so that a machine that slowly gets faster or slower favours none of them."""
    return tuple(
        Cell(repeat, level, (place + repeat + level) % architectures)
        for repeat in range(repeats)
        for level in range(levels)
        for place in range(architectures)
    )


def first_row(cell: Cell, levels: int, requests: int) -> int:
    """Where a cell's trace begins in the seed's sequence: the same for every architecture, and for no other cell."""
    return (cell.repeat * levels + cell.level) * requests
