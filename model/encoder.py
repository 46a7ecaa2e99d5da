"""The encoder: a stack that reads a prompt in both directions and leaves the memory of the cross-attention."""

from __future__ import annotations

from torch import Tensor, nn

from model import config
from model.attention import Surroundings
from model.cache import CacheView
from model.moe import Loads, Routing
from model.norm import build_norm
from model.stack import build_blocks, run_blocks


class Encoder(nn.Module):
    """forward(x (T, width), positions (T,), a view in which a sequence sees all of itself, loads) → memory (T, width)
    and one Routing for each mixture layer."""

    def __init__(self, value: config.Encoder, width: int) -> None:
        super().__init__()
        self.tables, self.blocks = build_blocks(value.blocks, width, both_ways=True)
        self.norm = build_norm(value.norm, width)

    def forward(
        self, x: Tensor, positions: Tensor, view: CacheView, loads: Loads | None
    ) -> tuple[Tensor, tuple[Routing, ...]]:
        turns = tuple(table(positions, x.dtype) for table in self.tables)
        x, routings = run_blocks(self.blocks, x, Surroundings(positions, view, turns), loads)
        return self.norm(x), routings
