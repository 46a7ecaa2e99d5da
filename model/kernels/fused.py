"""Whole halves of a block in one call (native/block.h): norm, projection and rotation before attention; projection,
residual, norm and feed-forward after it. With few rows a step costs what its calls cost: these are three a layer.

A pass over a built model: `fuse(model)` replaces the blocks of the common shape, pre-norm with grouped-query attention
and then a feed-forward or a mixture, and leaves the others as they are.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from model import config
from model.attention import GroupedAttention, Surroundings
from model.feedforward import FeedForward
from model.kernels import common, native, panels
from model.kernels.attention import Scores
from model.kernels.experts import ACTIVATIONS
from model.kernels.native import address
from model.kernels.panels import Form, PanelWeight, WeightStruct
from model.moe import Loads, MoE, Routing
from model.norm import Norm
from model.stack import Block
from model.transformer import Transformer


class NormStruct(ctypes.Structure):
    """native/block.h: Norm."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("centred", ctypes.c_int32),
    )


class _AttentionStruct(ctypes.Structure):
    """native/block.h: Attention."""

    _fields_ = (
        ("before", NormStruct),
        ("qkv", WeightStruct),
        ("query_norm", ctypes.POINTER(NormStruct)),
        ("key_norm", ctypes.POINTER(NormStruct)),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "dim", "turned", "interleaved")),
    )


class _FeedForwardStruct(ctypes.Structure):
    """native/block.h: FeedForward."""

    _fields_ = (
        ("before", NormStruct),
        ("up", WeightStruct),
        ("down", WeightStruct),
        *((name, ctypes.c_int64) for name in ("activation", "gated", "hidden")),
    )


class LaidNorm:
    """A norm as the kernels take it: float32 weights with the offset in them."""

    def __init__(self, norm: Norm) -> None:
        value = norm.value
        self.weight = None if norm.weight is None else norm.weight.detach().float() + value.offset
        self.bias = None if norm.bias is None else norm.bias.detach().float()
        self.struct = NormStruct(address(self.weight), address(self.bias), value.eps, int(value.kind == "layer"))


class _Enter:
    """What comes before attention: x (T, width) → queries, keys and values, normed and rotated."""

    def __init__(self, norm: Norm, attention: GroupedAttention, form: Form) -> None:
        heads, position = attention.heads, attention.value.position
        rotary = position if isinstance(position, config.Rotary) else None
        self.heads, self.kv, self.dim = heads.query, heads.kv, heads.dim
        self.table = attention.table if rotary else None
        self.kept = [LaidNorm(norm), *(LaidNorm(n) for n in common.head_norms(attention))]
        self.qkv = panels.lay_out(attention.qkv.weight, attention.qkv.bias, form=form)
        self.struct = _AttentionStruct(
            self.kept[0].struct,
            self.qkv.struct,
            *(ctypes.pointer(n.struct) for n in self.kept[1:]) if len(self.kept) > 1 else (None, None),
            self.heads,
            self.kv,
            self.dim,
            rotary.rotated(heads.dim) if rotary else 0,
            int(rotary is not None and rotary.layout != "half"),
        )

    def __call__(self, x: Tensor, around: Surroundings) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = (None, None) if self.table is None else around.turn(self.table)
        out = torch.empty(len(x), self.heads + 2 * self.kv, self.dim, dtype=x.dtype)
        native.kernels().dyno_enter(
            x.dtype == torch.bfloat16,
            ctypes.byref(self.struct),
            len(x),
            *map(address, (x, cos, sin, out)),
            native.threads(),
        )
        query, key, value = out.split((self.heads, self.kv, self.kv), dim=1)
        return query, key, value


class _Leave:
    """What comes after attention: its output and x → x + projection + feed-forward, or the first sum and its norm."""

    def __init__(self, norm: Norm, attention: GroupedAttention, branch: FeedForward | None, form: Form) -> None:
        self.out = panels.lay_out(attention.out.weight, attention.out.bias, form=form)
        self.norm = LaidNorm(norm)
        self.feed: _FeedForwardStruct | None = None
        self.weights: tuple[PanelWeight, ...] = ()
        if branch is not None:
            value = branch.value
            up = panels.lay_out(branch.up.weight, branch.up.bias, form=form, paired=value.gated)
            down = panels.lay_out(branch.down.weight, branch.down.bias, form=form)
            self.weights = up, down
            assert isinstance(value.activation, str)
            kind = ACTIVATIONS.index(value.activation)
            self.feed = _FeedForwardStruct(
                self.norm.struct, up.struct, down.struct, kind, int(value.gated), value.hidden
            )

    def __call__(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        out, attended = torch.empty_like(x), attended.contiguous()
        normed = out if self.feed is not None else torch.empty_like(x)
        native.kernels().dyno_leave(
            x.dtype == torch.bfloat16,
            ctypes.byref(self.out.struct),
            None if self.feed is None else ctypes.byref(self.feed),
            ctypes.byref(self.norm.struct),
            len(x),
            *map(address, (x, attended, out, normed)),
            native.threads(),
        )
        return out, normed


class FusedBlock(Block):
    """Stands in for a block that `fits`."""

    def __init__(self, plain: Block, form: Form) -> None:
        nn.Module.__init__(self)
        self.value = plain.value
        attention, branch = plain.branches
        assert isinstance(attention, GroupedAttention)
        before, after = plain.norms_before
        assert isinstance(before, Norm) and isinstance(after, Norm)
        self.layer = attention.layer
        value = attention.value
        sinks = None if attention.sinks is None else attention.sinks.detach().float()
        self.scores = Scores(value.softmax_scale, value.softcap, attention.slopes, sinks)
        self.enter = _Enter(before, attention, form)
        self.leave = _Leave(after, attention, branch if isinstance(branch, FeedForward) else None, form)
        self.mixture = branch if isinstance(branch, MoE) else None

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        x = x.contiguous()
        attended = around.cache.attend(self.layer, *self.enter(x, around), self.scores)
        out, normed = self.leave(x, attended)
        if self.mixture is None:
            return out, []
        y, routing = self.mixture(normed, loads)
        return out + y, [routing]


def fuse(model: Transformer, *, form: Form = "lossless") -> int:
    """Replace every block that fits; returns how many. form: of the blocks' weights."""
    count = 0
    for i, block in enumerate(model.blocks):
        if isinstance(block, Block) and fits(block):
            model.blocks[i] = FusedBlock(block, form)
            count += 1
    return count


def fits(block: Block) -> bool:
    """Whether a block has the common shape and its weights can be laid out in panels."""
    if not common.has_shape(block):
        return False
    attention, branch = block.branches
    assert isinstance(attention, GroupedAttention)
    return _fits_attention(attention) and (isinstance(branch, MoE) or _fits_feed_forward(branch))


def _fits_attention(attention: GroupedAttention) -> bool:
    projections = attention.qkv, attention.out
    laid_out = all(isinstance(layer, nn.Linear) and panels.supported(layer.weight) for layer in projections)
    return laid_out and attention.heads.dim % 16 == 0 and attention.out.out_features % 16 == 0


def _fits_feed_forward(branch: nn.Module) -> bool:
    assert isinstance(branch, FeedForward)
    known = branch.value.activation in ACTIVATIONS
    return known and all(panels.supported(layer.weight) for layer in (branch.up, branch.down))
