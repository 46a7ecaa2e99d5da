"""What comes before attention in a fused block, in one call (native/before.h, native/latent.h): norm, projections, and
the rotation of queries and keys."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from model import config
from model.attention import GroupedAttention, LatentAttention, Surroundings
from model.kernels import common, native, panels
from model.kernels.native import address
from model.kernels.panels import Form, PanelWeight, WeightStruct
from model.norm import Norm


class NormStruct(ctypes.Structure):
    """native/before.h: Norm."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("centred", ctypes.c_int32),
    )


class _AttentionStruct(ctypes.Structure):
    """native/before.h: Attention."""

    _fields_ = (
        ("before", NormStruct),
        ("qkv", WeightStruct),
        ("query_norm", ctypes.POINTER(NormStruct)),
        ("key_norm", ctypes.POINTER(NormStruct)),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "dim", "turned", "interleaved")),
    )


class _LatentStruct(ctypes.Structure):
    """native/latent.h: Latent."""

    _fields_ = (
        ("before", NormStruct),
        ("down", WeightStruct),
        ("query_norm", ctypes.POINTER(NormStruct)),
        ("up", ctypes.POINTER(WeightStruct)),
        ("latent_norm", NormStruct),
        *((name, ctypes.POINTER(WeightStruct)) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("heads", "rank", "plain", "rotary", "turned", "interleaved")),
    )


class LaidNorm:
    """A norm as the kernels take it: float32 weights with the offset in them."""

    def __init__(self, norm: Norm) -> None:
        value = norm.value
        self.weight = None if norm.weight is None else norm.weight.detach().float() + value.offset
        self.bias = None if norm.bias is None else norm.bias.detach().float()
        self.struct = NormStruct(address(self.weight), address(self.bias), value.eps, int(value.kind == "layer"))


class Before:
    """x (T, width) → queries, keys and values, normed and rotated.

    table: of the rotary positions, None without. placed: numbers of a token's queries, keys and values, which lie one
    behind the other. attended: numbers of a token that come out of attention. widest: numbers of a key. struct: for the
    kernels; weights: all in panels.
    """

    table: int | None
    placed: int
    attended: int
    widest: int
    struct: ctypes.Structure
    weights: tuple[PanelWeight, ...]

    def __call__(self, x: Tensor, around: Surroundings) -> tuple[Tensor, Tensor, Tensor | None]:
        """queries (T, heads, dim), keys (T, key heads, dim) and values, as attention takes them."""
        raise NotImplementedError

    def turn(self, around: Surroundings) -> tuple[int | None, ...]:
        """Where the cosines and the sines of the step are."""
        return (None, None) if self.table is None else tuple(map(address, around.turn(self.table)))


class GroupedBefore(Before):
    """Of heads with keys and values of their own, or shared by groups."""

    def __init__(self, norm: Norm, attention: GroupedAttention, form: Form) -> None:
        heads = attention.heads
        self.heads, self.kv, self.dim = heads.query, heads.kv, heads.dim
        turned, interleaved = _rotation(attention.value.position, heads.dim)
        self.table = attention.table if turned else None
        self.placed, self.attended = (heads.query + 2 * heads.kv) * heads.dim, heads.query * heads.dim
        self.widest = heads.dim
        self._norms = [LaidNorm(norm), *(LaidNorm(n) for n in common.head_norms(attention))]
        qkv = panels.lay_out(attention.qkv.weight, attention.qkv.bias, form=form)
        self.weights = (qkv,)
        self.struct = _AttentionStruct(
            self._norms[0].struct,
            qkv.struct,
            *(ctypes.pointer(n.struct) for n in self._norms[1:]) if len(self._norms) > 1 else (None, None),
            self.heads,
            self.kv,
            self.dim,
            turned,
            interleaved,
        )

    def __call__(self, x: Tensor, around: Surroundings) -> tuple[Tensor, Tensor, Tensor | None]:
        out = torch.empty(len(x), self.heads + 2 * self.kv, self.dim, dtype=x.dtype)
        native.kernels().dyno_enter(
            x.dtype == torch.bfloat16,
            ctypes.byref(self.struct),
            len(x),
            address(x),
            *self.turn(around),
            address(out),
            native.threads(),
        )
        query, key, value = out.split((self.heads, self.kv, self.kv), dim=1)
        return query, key, value


class LatentBefore(Before):
    """Of latent heads, absorbed: queries in the latent space, and a latent with a rotary key that all heads share.

    `values` lead from the latents that are attended to the values of each head; they belong to what comes after.
    """

    def __init__(self, norm: Norm, attention: LatentAttention, form: Form) -> None:
        heads = attention.heads
        turned, interleaved = _rotation(attention.value.position, heads.rotary_dim)
        self.table = attention.table if turned else None
        self.heads, self.widest = heads.query, heads.kv_rank + heads.rotary_dim
        self.placed, self.attended = (heads.query + 1) * self.widest, heads.query * heads.kv_rank
        first = attention.query_down if isinstance(attention.query_down, nn.Linear) else attention.query_up
        down = _beside(first, attention.latent_down, form)
        up = None if first is attention.query_up else panels.lay_out(attention.query_up.weight, form=form)
        keys = [panels.lay_out(weight.T.contiguous(), form=form) for weight in attention.key_up]
        self.values = [panels.lay_out(weight, form=form) for weight in attention.value_up]
        self.weights = (down, *([] if up is None else [up]), *keys, *self.values)
        norms = norm, attention.query_norm, attention.latent_norm
        self._norms = [LaidNorm(n) if isinstance(n, Norm) else None for n in norms]
        before, query_norm, latent_norm = (None if n is None else n.struct for n in self._norms)
        self.struct = _LatentStruct(
            before,
            down.struct,
            None if query_norm is None else ctypes.pointer(query_norm),
            None if up is None else ctypes.pointer(up.struct),
            latent_norm,
            panels.structs(keys),
            panels.structs(self.values),
            heads.query,
            heads.kv_rank,
            heads.plain_dim,
            heads.rotary_dim,
            turned,
            interleaved,
        )

    def __call__(self, x: Tensor, around: Surroundings) -> tuple[Tensor, Tensor, Tensor | None]:
        query = x.new_empty(len(x), self.heads, self.widest)
        key = x.new_empty(len(x), 1, self.widest)
        native.kernels().dyno_enter_latent(
            x.dtype == torch.bfloat16,
            ctypes.byref(self.struct),
            len(x),
            address(x),
            *self.turn(around),
            address(query),
            address(key),
            native.threads(),
        )
        return query, key, None


def _rotation(position: object, dim: int) -> tuple[int, int]:
    """How many numbers of a head rotate, and whether pairs are neighbours."""
    if not isinstance(position, config.Rotary):
        return 0, 0
    return position.rotated(dim), int(position.layout != "half")


def _beside(first: nn.Linear, second: nn.Linear, form: Form) -> PanelWeight:
    """Two layers that read the same rows as one that gives the results of both."""
    layers, bias = (first, second), None
    if any(layer.bias is not None for layer in layers):
        bias = torch.cat([x.weight.new_zeros(x.out_features) if x.bias is None else x.bias for x in layers])
    return panels.lay_out(torch.cat([layer.weight for layer in layers]), bias, form=form)
