"""What comes before attention in a fused block, in one call (native/before.h; of latent heads latent.py): norm,
projections, and the rotation of queries and keys."""

from __future__ import annotations

import ctypes
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from model import config
from model.attention import GroupedAttention, LatentAttention, Surroundings
from model.kernels import native, panels
from model.kernels.attention import Selection
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


class _HeadNormStruct(ctypes.Structure):
    """native/before.h: HeadNorm."""

    _fields_ = (("norm", NormStruct), *((name, ctypes.c_int64) for name in ("apart", "whole")))


class GrowthStruct(ctypes.Structure):
    """native/before.h: Growth."""

    _fields_ = tuple((name, ctypes.c_float) for name in ("weight", "floor", "offset"))


class RotationStruct(ctypes.Structure):
    """native/before.h: Rotation."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("turned", "interleaved"))


class GateStruct(ctypes.Structure):
    """native/before.h: OutputGate."""

    _fields_ = (("weight", WeightStruct), ("shared", ctypes.c_int64))


class _AttentionStruct(ctypes.Structure):
    """native/before.h: Attention."""

    _fields_ = (
        ("before", ctypes.POINTER(NormStruct)),
        ("gate", ctypes.POINTER(GateStruct)),
        ("qkv", WeightStruct),
        *((name, ctypes.POINTER(_HeadNormStruct)) for name in ("query_norm", "key_norm", "value_norm")),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "dim")),
        ("rotation", RotationStruct),
        *((name, ctypes.c_int64) for name in ("normed_last", "shared_value")),
        ("growth", GrowthStruct),
        ("clip", ctypes.c_float),
    )


class LaidNorm:
    """A norm as the kernels take it: float32 weights with the offset in them."""

    def __init__(self, norm: Norm) -> None:
        value = norm.value
        self.weight = None if norm.weight is None else norm.weight.detach().float() + value.offset
        self.bias = None if norm.bias is None else norm.bias.detach().float()
        self.struct = NormStruct(address(self.weight), address(self.bias), value.eps, int(value.kind == "layer"))

    @classmethod
    def of(cls, norm: nn.Module | None) -> LaidNorm | None:
        """That of a norm; None where a module does nothing."""
        return cls(norm) if isinstance(norm, Norm) else None


Norms: TypeAlias = tuple[nn.Module | None, nn.Module | None]
"""Of what a part of a block sees and of what it gives; None or a module that does nothing: none."""


class Placed(NamedTuple):
    """What attention takes: queries (T, heads, dim), keys (T, key heads, dim), values, and which keys are attended; and
    the gates (T, gated) of what comes out of it."""

    query: Tensor
    key: Tensor
    value: Tensor | None
    selection: Selection | None
    gates: Tensor | None


class Before:
    """x (T, width) → queries, keys and values, normed and rotated.

    table: of the rotary positions, None without. placed: numbers of a token's queries, keys and values; attended: of
    what comes out of attention; widest: of a key; gated: of the gates, 0 without. struct: for the kernels; weights: all
    in panels.
    """

    table: int | None
    placed: int
    attended: int
    widest: int
    struct: ctypes.Structure

    def __init__(self, norm: Norm | None, attention: GroupedAttention | LatentAttention, form: Form) -> None:
        self.weights: tuple[PanelWeight, ...] = ()
        self.gate: ctypes._Pointer[GateStruct] | None = None
        self.gated = 0
        self._norm = LaidNorm.of(norm)
        if attention.gate is not None:
            self.gated, of_heads = attention.gate.out_features, attention.gate_bias
            bias = None if of_heads is None else of_heads.repeat_interleave(self.gated // len(of_heads))
            laid = panels.lay_out(attention.gate.weight, bias, form=form)
            self.gate = ctypes.pointer(GateStruct(laid.struct, attention.out.in_features // self.gated))
            self.weights = (laid,)

    def __call__(self, x: Tensor, around: Surroundings) -> Placed:
        """What attention takes of x."""
        raise NotImplementedError

    def gates(self, x: Tensor) -> Tensor | None:
        """Room for the gates of these tokens."""
        return x.new_empty(len(x), self.gated) if self.gated else None

    def standing(self, around: Surroundings) -> tuple[int | None, ...]:
        """Where the positions, the cosines and the sines of the step are."""
        turn = (None, None) if self.table is None else around.turn(self.table)
        return address(around.positions), *map(address, turn)


class GroupedBefore(Before):
    """Of heads with keys and values of their own, or shared by groups."""

    def __init__(self, norm: Norm | None, attention: GroupedAttention, form: Form) -> None:
        super().__init__(norm, attention, form)
        heads, qk_norm = attention.heads, attention.heads.qk_norm
        self.heads, self.kv, self.dim = heads.query, heads.kv, heads.dim
        rotation = rotation_of(attention.value.position, heads.dim)
        self.table = attention.table if rotation.turned else None
        self.placed, self.attended = (heads.query + 2 * heads.kv) * heads.dim, heads.query * heads.dim
        self.widest = heads.dim
        qkv = panels.lay_out(attention.qkv.weight, attention.qkv.bias, form=form)
        self.weights += (qkv,)
        norms = (attention.query_norm, qk_norm), (attention.key_norm, qk_norm), (attention.value_norm, None)
        self._head_norms = [LaidNorm.of(norm) for norm, _ in norms]
        self.struct = _AttentionStruct(
            pointer(self._norm),
            self.gate,
            qkv.struct,
            *(_head_norm(laid, how, heads.dim) for laid, (_, how) in zip(self._head_norms, norms, strict=True)),
            self.heads,
            self.kv,
            self.dim,
            rotation,
            int(qk_norm is not None and qk_norm.after_rotation),
            int(heads.shared_value),
            growth(attention.value.temperature),
            heads.clip or 0.0,
        )

    def __call__(self, x: Tensor, around: Surroundings) -> Placed:
        out, gates = x.new_empty(len(x), self.heads + 2 * self.kv, self.dim), self.gates(x)
        native.call(
            "dyno_enter",
            x.dtype,
            ctypes.byref(self.struct),
            len(x),
            address(x),
            *self.standing(around),
            *map(address, (out, gates)),
        )
        query, key, value = out.split((self.heads, self.kv, self.kv), dim=1)
        return Placed(query, key, value, None, gates)


def pointer(norm: LaidNorm | None) -> ctypes._Pointer[NormStruct] | None:
    """What the kernels take of a norm; none is a null pointer."""
    return None if norm is None else ctypes.pointer(norm.struct)


def _head_norm(laid: LaidNorm | None, value: config.QKNorm | None, dim: int) -> ctypes._Pointer[_HeadNormStruct] | None:
    """What the kernels take of a norm of heads; a value of None is one that all heads have."""
    if laid is None:
        return None
    over = "head" if value is None else value.over
    return ctypes.pointer(_HeadNormStruct(laid.struct, dim if over == "each" else 0, int(over == "width")))


def growth(value: config.Temperature | None) -> GrowthStruct:
    """What the kernels take of a temperature."""
    return GrowthStruct() if value is None else GrowthStruct(value.weight, value.floor, value.offset)


def rotation_of(position: object, dim: int) -> RotationStruct:
    """What the kernels take of a position of heads of this dimension."""
    if not isinstance(position, config.Rotary):
        return RotationStruct()
    return RotationStruct(position.rotated(dim), int(position.layout != "half"))
