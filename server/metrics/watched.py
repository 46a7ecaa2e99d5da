"""A served model as its metrics see it."""

from __future__ import annotations

from dataclasses import dataclass

from model.roofline import Machine
from server.models import ModelCard
from server.tally import EngineTally


@dataclass(frozen=True, slots=True)
class Watched:
    """`layers` has the block index and number of experts of every mixture; `block_tokens` those of a cache block."""

    card: ModelCard
    layers: tuple[tuple[int, int], ...]
    tally: EngineTally
    roofs: Machine | None = None
    block_tokens: int = 0
