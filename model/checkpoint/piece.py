"""The unit of loading: a region of one parameter, and the stored tensors that fill it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from model.checkpoint.changes import SAME, Change, Transposed

Place: TypeAlias = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """`target[place]`, a region of a parameter or buffer of ours, is `change` of the stored tensors `sources`."""

    target: str
    sources: tuple[str, ...]
    place: Place = ()
    change: Change = SAME


def piece(target: str, source: str, place: Place = (), change: Change | None = None) -> Piece:
    """A piece of one source."""
    return Piece(target, (source,), place, change or SAME)


def linear(
    ours: str, theirs: str, *, bias: bool, place: Place = (), change: Change | None = None, transposed: bool = False
) -> Iterator[Piece]:
    """Weight and bias of a linear layer; `transposed` for weights stored as (in, out)."""
    yield piece(f"{ours}.weight", f"{theirs}.weight", place, Transposed() if transposed else change)
    if bias:
        yield piece(f"{ours}.bias", f"{theirs}.bias", place, change)
