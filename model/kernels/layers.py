"""Fused blocks that follow each other, in one call (native/layers.h): with few rows, what Python does between the
layers of a small model takes as long as they do.

A pass over a built model of fused blocks and packed mixtures: `join(model)` replaces neighbours that `fit` by one
module.
"""

from __future__ import annotations

import ctypes
from itertools import groupby

import torch
from torch import Tensor, nn

from model.attention import Surroundings
from model.cache import OpenCacheView
from model.kernels import inplace, native
from model.kernels.experts import PanelExperts, PanelRouter, RoutingStruct, empty_routing, pointers
from model.kernels.fused import FusedBlock
from model.kernels.native import address
from model.moe import Loads, MoE, Routing
from model.stack import Block
from model.transformer import Transformer


class _LayerStruct(ctypes.Structure):
    """native/layers.h: Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention", "projection", "feed", "before", "router", "experts")),
        *((name, ctypes.c_void_p) for name in ("slopes", "sinks")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
    )


class _PlaceStruct(ctypes.Structure):
    """native/layers.h: LayerPlace."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("call", "keys", "values", "cos", "sin")),
        ("routing", RoutingStruct),
    )


class _RoomsStruct(ctypes.Structure):
    """native/layers.h: Rooms."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("placed", "attended", "normed", "mixed"))


class Layers(Block):
    """Stands in for fused blocks that `fit`, in order."""

    def __init__(self, blocks: list[FusedBlock]) -> None:
        nn.Module.__init__(self)
        self.value, self.blocks = blocks[0].value, nn.ModuleList(blocks)
        self._blocks = tuple(blocks)
        self._layers = (_LayerStruct * len(blocks))(*map(_layer, blocks))
        self._places = (_PlaceStruct * len(blocks))()
        placed = max((block.enter.heads + 2 * block.enter.kv) * block.enter.dim for block in blocks)
        attended = max(block.enter.heads * block.enter.dim for block in blocks)
        mixed = max(block.leave.out.columns if block.mixture else 0 for block in blocks)
        self._widths = placed, attended, mixed, mixed

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        view, routings = around.cache, []
        if not isinstance(view, OpenCacheView):
            for block in self._blocks:
                x, routed = block(x, around, loads)
                routings += routed
            return x, routings
        rows = len(x)
        for block, place in zip(self._blocks, self._places, strict=True):
            call, keys, values = view.place(block.layer)
            place.call, place.keys, place.values = ctypes.addressof(call), keys.data_ptr(), address(values)
            if block.enter.table is not None:
                place.cos, place.sin = map(address, around.turn(block.enter.table))
            if block.mixture is not None:
                routings.append(empty_routing(rows, block.mixture.value))
                place.routing = pointers(routings[-1])
        return self._run(x.clone(memory_format=torch.contiguous_format)), routings

    def _run(self, x: Tensor) -> Tensor:
        """x is overwritten."""
        library = native.library()
        assert library is not None
        rooms = [x.new_empty(len(x), width) for width in self._widths]
        library.dyno_layers(
            int(x.dtype == torch.bfloat16),
            ctypes.c_int64(len(self._blocks)),
            self._layers,
            self._places,
            ctypes.c_int64(len(x)),
            ctypes.c_void_p(x.data_ptr()),
            ctypes.byref(_RoomsStruct(*map(address, rooms))),
            torch.get_num_threads(),
        )
        return x


def _layer(block: FusedBlock) -> _LayerStruct:
    """The pointers stay good as long as the block does."""
    scores, mixture, leave = block.scores, block.mixture, block.leave
    parts: list[ctypes.Structure | None] = [block.enter.struct, leave.out.struct, leave.feed, None, None, None]
    if mixture is not None:
        router, stack = mixture.router, mixture.experts
        assert isinstance(router, PanelRouter) and isinstance(stack, PanelExperts)
        parts[3:] = leave.norm.struct, router.struct, stack.choosing(mixture.value.active, mixture.value.weigh)
    structs = (None if part is None else ctypes.addressof(part) for part in parts)
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
    """Whether a block is fused, its heads are as wide as the kernels for attention take them, and its mixture, where it
    has one, is what those for routing and mixing do."""
    if not isinstance(block, FusedBlock) or block.enter.dim > inplace.WIDEST:
        return False
    return block.mixture is None or _fits_mixture(block.mixture)


def _fits_mixture(mixture: MoE) -> bool:
    router, stack = mixture.router, mixture.experts
    plain = mixture.shared is None and mixture.value.router.capacity is None and not mixture.training
    return plain and isinstance(stack, PanelExperts) and isinstance(router, PanelRouter) and router.struct is not None
