"""What comes before attention of latent heads in a fused block, in one call (native/latent.h), with what their sparse
selection looks for, if any."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from model.attention import LatentAttention, Surroundings
from model.indexer import Indexer
from model.kernels import native, panels
from model.kernels.attention import Selection
from model.kernels.before import (
    Before,
    GateStruct,
    GrowthStruct,
    LaidNorm,
    NormStruct,
    Placed,
    RotationStruct,
    growth,
    pointer,
    rotation_of,
)
from model.kernels.native import address
from model.kernels.panels import Form, PanelWeight, WeightStruct
from model.norm import Norm


class _IndexerStruct(ctypes.Structure):
    """native/latent.h: Indexer."""

    _fields_ = (
        *((name, WeightStruct) for name in ("query", "key", "weights")),
        ("key_norm", NormStruct),
        *((name, ctypes.c_int64) for name in ("heads", "dim", "most")),
        ("rotation", RotationStruct),
    )


class _LatentStruct(ctypes.Structure):
    """native/latent.h: Latent."""

    _fields_ = (
        ("before", ctypes.POINTER(NormStruct)),
        ("gate", ctypes.POINTER(GateStruct)),
        ("down", WeightStruct),
        ("query_norm", ctypes.POINTER(NormStruct)),
        ("up", ctypes.POINTER(WeightStruct)),
        ("latent_norm", NormStruct),
        *((name, ctypes.POINTER(WeightStruct)) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("heads", "rank", "plain", "rotary")),
        ("rotation", RotationStruct),
        ("growth", GrowthStruct),
        ("indexer", ctypes.POINTER(_IndexerStruct)),
    )


class _LatentRowsStruct(ctypes.Structure):
    """native/latent.h: LatentRows."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("queries", "entries", "gates", "small", "weights"))


class LatentBefore(Before):
    """Of latent heads, absorbed: queries in the latent space, and a latent with a rotary key that all heads share.

    The weights that lead from attended latents to the values of each head are here too; what comes after uses them.
    """

    def __init__(self, norm: Norm | None, attention: LatentAttention, form: Form) -> None:
        super().__init__(norm, attention, form)
        heads = attention.heads
        rotation = rotation_of(attention.value.position, heads.rotary_dim)
        self.table = attention.table if rotation.turned else None
        self.heads, self.widest = heads.query, heads.kv_rank + heads.rotary_dim
        self.attended = heads.query * heads.kv_rank
        self.indexer = None if attention.indexer is None else LaidIndexer(attention.indexer, rotation.turned, form)
        self.stored = self.widest + (0 if self.indexer is None else self.indexer.value.dim)
        self.placed = heads.query * self.widest + self.stored + (0 if self.indexer is None else self.indexer.placed)
        first = attention.query_down if isinstance(attention.query_down, nn.Linear) else attention.query_up
        down = _beside(first, attention.latent_down, form)
        up = None if first is attention.query_up else panels.lay_out(attention.query_up.weight, form=form)
        keys = [panels.lay_out(weight.T.contiguous(), form=form) for weight in attention.key_up]
        values = [panels.lay_out(weight, form=form) for weight in attention.value_up]
        self.weights += (down, *([] if up is None else [up]), *keys, *values)
        self.weights += () if self.indexer is None else self.indexer.weights
        self._query_norm, self._latent_norm = LaidNorm.of(attention.query_norm), LaidNorm.of(attention.latent_norm)
        assert self._latent_norm is not None
        self.struct = _LatentStruct(
            pointer(self._norm),
            self.gate,
            down.struct,
            pointer(self._query_norm),
            None if up is None else ctypes.pointer(up.struct),
            self._latent_norm.struct,
            panels.structs(keys),
            panels.structs(values),
            heads.query,
            heads.kv_rank,
            heads.plain_dim,
            heads.rotary_dim,
            rotation,
            growth(attention.value.temperature),
            None if self.indexer is None else ctypes.pointer(self.indexer.struct),
        )

    def __call__(self, x: Tensor, around: Surroundings) -> Placed:
        query, key = x.new_empty(len(x), self.heads, self.widest), x.new_empty(len(x), 1, self.stored)
        gates, selection = self.gates(x), None if self.indexer is None else self.indexer.selection(x)
        small = (None, None) if selection is None else (selection.query, selection.weights)
        native.call(
            "dyno_enter_latent",
            x.dtype,
            ctypes.byref(self.struct),
            len(x),
            address(x),
            *self.standing(around),
            ctypes.byref(_LatentRowsStruct(*map(address, (query, key, gates, *small)))),
        )
        return Placed(query, key, None, selection, gates)


class LaidIndexer:
    """An indexer as the kernels take it. placed: numbers of a token's small queries and their weights."""

    def __init__(self, plain: Indexer, turned: int, form: Form) -> None:
        """turned: numbers of a head that rotate."""
        value = self.value = plain.value
        self.placed = value.heads * (value.dim + 1)
        layers = plain.query, plain.key, plain.weights
        self.weights = tuple(panels.lay_out(layer.weight, form=form) for layer in layers)
        self._norm = LaidNorm(plain.key_norm)
        self.struct = _IndexerStruct(
            *(weight.struct for weight in self.weights),
            self._norm.struct,
            value.heads,
            value.dim,
            value.top_k,
            RotationStruct(turned),
        )

    def selection(self, x: Tensor) -> Selection:
        """Room for what chooses the keys of these tokens."""
        heads, dim = self.value.heads, self.value.dim
        return Selection(x.new_empty(len(x), heads, dim), x.new_empty(len(x), heads), self.value.top_k)


def _beside(first: nn.Linear, second: nn.Linear, form: Form) -> PanelWeight:
    """Two layers that read the same rows as one that gives the results of both."""
    layers, bias = (first, second), None
    if any(layer.bias is not None for layer in layers):
        bias = torch.cat([x.weight.new_zeros(x.out_features) if x.bias is None else x.bias for x in layers])
    return panels.lay_out(torch.cat([layer.weight for layer in layers]), bias, form=form)
