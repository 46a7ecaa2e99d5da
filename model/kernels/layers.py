"""Fused blocks that follow each other, in one call (native/layers.h): with few rows, what Python does between the
layers of a small model takes as long as they do.

A pass over a built model of fused blocks and packed mixtures: `join(model)` replaces neighbours that `fit` by one
module.
"""

from __future__ import annotations

import ctypes
from itertools import accumulate, groupby
from weakref import ref

import torch
from torch import Tensor, nn

from model.attention import Surroundings
from model.cache import opened
from model.kernels import inplace, native
from model.kernels.before import GroupedBefore
from model.kernels.experts import LoadsStruct, PanelExperts, PanelRouter, RoutingStruct, empty_routing, pointers
from model.kernels.feeding import PanelFeedForward
from model.kernels.fused import FusedBlock
from model.kernels.inplace import Pools
from model.kernels.native import address
from model.kernels.recurring import MovesStruct, RecurrentBefore, moves_struct
from model.moe import Beside, Loads, MoE, Routing
from model.stack import Stage
from model.states import StateView
from model.transformer import Transformer


class _LayerStruct(ctypes.Structure):
    """native/layers.h: Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention", "recurrent", "after", "router", "experts", "shared")),
        *((name, ctypes.c_void_p) for name in ("slopes", "sinks")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
    )


class _PlaceStruct(ctypes.Structure):
    """native/layers.h: LayerPlace."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("call", "turn")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        ("numbers", ctypes.c_int64),
        ("routing", RoutingStruct),
        ("loads", LoadsStruct),
    )


class _AroundStruct(ctypes.Structure):
    """native/layers.h: Surroundings; `turns` holds the cosines and the sines of every rotary table in turn."""

    _fields_ = (
        ("positions", ctypes.c_void_p),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("calls", "turns")),
        ("moves", ctypes.POINTER(MovesStruct)),
    )


class _RoomsStruct(ctypes.Structure):
    """native/layers.h: Rooms."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("placed", "gates", "attended", "normed", "mixed", "shared"))


class Layers(Stage):
    """Stands in for fused blocks that `fit`, in order."""

    def __init__(self, blocks: list[FusedBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self._blocks = tuple(blocks)
        self._layers = (_LayerStruct * len(blocks))(*map(_layer, blocks))
        self._places = (_PlaceStruct * len(blocks))()
        mixing = [(p, b.mixture) for p, b in zip(self._places, blocks, strict=True) if b.mixture]
        self._mixtures = [(place, _parts(branch)[0]) for place, branch in mixing]
        befores = [block.before for block in blocks if block.before is not None]
        self._tables = sorted({before.table for before in befores if before.table is not None})
        for block, place in zip(blocks, self._places, strict=True):
            table = None if block.before is None else block.before.table
            place.turn = -1 if table is None else self._tables.index(table)
        self._pools: ref[Pools] | None = None  # a model does not keep a cache
        placed = max((before.placed for before in befores), default=0)
        gated = max((before.gated for before in befores), default=0)
        attended = max((before.attended for before in befores), default=0)
        mixed = max(block.after.width if block.mixture else 0 for block in blocks)
        *self._starts, self._width = accumulate((placed, gated, attended, mixed, mixed, mixed), initial=0)

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        view = opened(around.cache)
        if view is None:
            routings = []
            for block in self._blocks:
                x, routed = block(x, around, loads)
                routings += routed
            return x, routings
        if self._pools is None or self._pools() is not view.pools:
            self._settle(view.pools, view.states)
        rows = x.shape[0]
        routings = [empty_routing(rows, mixture.value) for _, mixture in self._mixtures]
        for (place, mixture), routing in zip(self._mixtures, routings, strict=True):
            place.routing = pointers(routing)
            if mixture.value.router.capacity is not None:
                place.loads = _loads(mixture, loads)
        turns = [part.data_ptr() for table in self._tables for part in around.turn(table)]
        calls = [ctypes.addressof(call) for call in view.calls()]
        lists = ((ctypes.c_void_p * len(part))(*part) for part in (calls, turns))
        moves = None if view.states is None else ctypes.pointer(moves_struct(view.states.moves))
        step = _AroundStruct(around.positions.data_ptr(), *lists, moves)
        return self._run(x.clone(memory_format=torch.contiguous_format), rows, step), routings

    def _settle(self, pools: Pools, states: StateView | None) -> None:
        """Write down where each layer's pools or slots are; they stay there as long as the cache's memory does."""
        self._pools = ref(pools)
        for block, place in zip(self._blocks, self._places, strict=True):
            layer = block.layer
            if layer is None:
                continue
            if block.scores is None:
                assert states is not None, "a model with recurrent mixers is served with states"
                slots = states.cache.slots[layer]
                place.keys, place.numbers = address(slots), slots.shape[1]
                continue
            place.call = pools.groups[layer]
            place.keys, place.values = address(pools.keys[layer]), address(pools.values[layer])

    def _run(self, x: Tensor, rows: int, step: _AroundStruct) -> Tensor:
        """Run the layers on x (rows, width), which is overwritten and returned."""
        room = x.new_empty(rows * self._width)
        first, size = room.data_ptr(), rows * x.element_size()
        native.call(
            "dyno_layers",
            x.dtype,
            len(self._blocks),
            self._layers,
            self._places,
            ctypes.byref(step),
            rows,
            x.data_ptr(),
            ctypes.byref(_RoomsStruct(*(first + size * start for start in self._starts))),
        )
        return x


def _layer(block: FusedBlock) -> _LayerStruct:
    """The struct of one block; its pointers stay good as long as the block does."""
    scores, before = block.scores, block.before
    attention = before.struct if isinstance(before, GroupedBefore) else None
    recurrent = before.struct if isinstance(before, RecurrentBefore) else None
    parts: list[ctypes.Structure | None] = [attention, recurrent, block.after.struct, None, None, None]
    if block.mixture is not None:
        mixture, beside = _parts(block.mixture)
        router, stack = mixture.router, mixture.experts
        assert isinstance(router, PanelRouter) and isinstance(stack, PanelExperts)
        parts[3:5] = router.struct, stack.choosing(mixture.value.active, mixture.value.weigh)
        for shared in beside:
            assert isinstance(shared, PanelFeedForward)
            parts[5] = shared.struct
    structs = (None if part is None else ctypes.addressof(part) for part in parts)
    if scores is None:
        return _LayerStruct(*structs)
    return _LayerStruct(*structs, address(scores.slopes), address(scores.sinks), scores.scale, scores.softcap or 0.0)


def _loads(mixture: MoE, loads: Loads | None) -> LoadsStruct:
    """Where its router finds what earlier tokens chose; they have to live as long as they are used."""
    assert loads is not None, "a router with a capacity needs the loads of its sequences"
    prior = loads.prior[mixture.layer]
    assert loads.sequence.is_contiguous() and prior.is_contiguous()
    return LoadsStruct(address(loads.sequence), address(prior), prior.shape[-1])


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
    """Whether a block is fused, its heads are no wider than the kernels for attention take, and its mixture, if any, is
    one that those for routing and mixing take."""
    if not isinstance(block, FusedBlock) or (block.before is not None and block.before.widest > inplace.WIDEST):
        return False
    return block.mixture is None or _fits_mixture(block.mixture)


def _fits_mixture(branch: MoE | Beside) -> bool:
    mixture, beside = _parts(branch)
    alone = len(beside) < 2 and all(isinstance(part, PanelFeedForward) for part in beside)
    known = isinstance(mixture.experts, PanelExperts) and isinstance(mixture.router, PanelRouter)
    return alone and known and not mixture.training


def _parts(branch: MoE | Beside) -> tuple[MoE, list[nn.Module]]:
    """The mixture of a branch, and the feed-forwards beside its experts."""
    mixture, beside = (branch.mixture, [branch.dense]) if isinstance(branch, Beside) else (branch, [])
    return mixture, beside if mixture.shared is None else [*beside, mixture.shared]
