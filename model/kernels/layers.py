"""Fused dense blocks that follow each other, in one call (native/layers.h): with few rows, what Python does between the
layers of a small model takes as long as they do.

A pass over a built model with fused blocks: `join(model)` replaces neighbours that `fit` by one module.
"""

from __future__ import annotations

import ctypes
from itertools import groupby
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from model.attention import Surroundings
from model.kernels import inplace, native
from model.kernels.fused import FusedBlock
from model.kernels.native import address
from model.moe import Loads, Routing
from model.stack import Block
from model.transformer import Transformer


@runtime_checkable
class Lying(Protocol):
    """A cache view whose pools and pages the compiled kernels may read and write by themselves."""

    def lying(self, layer: int) -> tuple[inplace.Call, Tensor, Tensor | None]:
        """How all tokens of the step are attended to in the pages of this layer's group, and its pools of keys and
        values."""
        ...


class _LayerStruct(ctypes.Structure):
    """native/layers.h: Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention", "projection", "feed", "slopes", "sinks")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
    )


class _LyingStruct(ctypes.Structure):
    """native/layers.h: Lying."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("call", "keys", "values", "cos", "sin"))


class Layers(Block):
    """Stands in for fused blocks that `fit`, in order."""

    def __init__(self, blocks: list[FusedBlock]) -> None:
        nn.Module.__init__(self)
        self.value, self.blocks = blocks[0].value, nn.ModuleList(blocks)
        self._blocks = tuple(blocks)
        self._layers = (_LayerStruct * len(blocks))(*map(_layer, blocks))
        self._lying = (_LyingStruct * len(blocks))()
        self._placed = max((block.enter.heads + 2 * block.enter.kv) * block.enter.dim for block in blocks)
        self._attended = max(block.enter.heads * block.enter.dim for block in blocks)

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        if not isinstance(around.cache, Lying):
            for block in self._blocks:
                x, _ = block(x, around, loads)
            return x, []
        for block, there in zip(self._blocks, self._lying, strict=True):
            call, keys, values = around.cache.lying(block.layer)
            there.call, there.keys, there.values = ctypes.addressof(call), keys.data_ptr(), address(values)
            if block.enter.table is not None:
                there.cos, there.sin = map(address, around.turn(block.enter.table))
        out, rows = x.clone(memory_format=torch.contiguous_format), len(x)
        room = [x.new_empty(rows, width) for width in (self._placed, self._attended)]
        library = native.library()
        assert library is not None
        library.dyno_layers(
            int(x.dtype == torch.bfloat16),
            ctypes.c_int64(len(self._blocks)),
            self._layers,
            self._lying,
            ctypes.c_int64(rows),
            *(ctypes.c_void_p(address(tensor)) for tensor in (out, *room)),
            torch.get_num_threads(),
        )
        return out, []


def _layer(block: FusedBlock) -> _LayerStruct:
    """The pointers stay good as long as the block does."""
    scores, feed = block.scores, block.leave.feed
    assert feed is not None
    structs = (ctypes.addressof(part) for part in (block.enter.struct, block.leave.out.struct, feed))
    return _LayerStruct(*structs, address(scores.slopes), address(scores.sinks), scores.scale, scores.softcap or 0.0)


def join(model: Transformer) -> int:
    """Replace every run of neighbours that fit by one module; returns how many blocks are in some."""
    joined: list[nn.Module] = []
    count = 0
    for fitting, run in groupby(model.blocks, fits):
        blocks = list(run)
        if fitting and len(blocks) > 1:
            count += len(blocks)
            blocks = [Layers([block for block in blocks if isinstance(block, FusedBlock)])]
        joined += blocks
    model.blocks = nn.ModuleList(joined)
    return count


def fits(block: nn.Module) -> bool:
    """Whether a block is fused and dense, and its heads are as wide as the kernels for attention take them."""
    return isinstance(block, FusedBlock) and block.leave.feed is not None and block.enter.dim <= inplace.WIDEST
