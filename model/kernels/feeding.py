"""Feed-forwards in one call (native/after.h: feed), wherever one stands by itself: beside experts, or in a block that
is not fused. Between its two layers nothing goes through PyTorch."""

from __future__ import annotations

import ctypes
from typing import TypeGuard

import torch
from torch import Tensor, nn

from model import config
from model.feedforward import FeedForward
from model.kernels import native, panels
from model.kernels.before import LaidNorm, Norms, NormStruct, pointer
from model.kernels.native import address
from model.kernels.panels import Form, PanelWeight, WeightStruct

NAMES = ("relu", "relu2", "gelu", "gelu_tanh", "silu")  # in the order of native/vector.h, which a clamped gate ends


class ActivatingStruct(ctypes.Structure):
    """native/vector.h: Activating."""

    _fields_ = (("kind", ctypes.c_int64), *((name, ctypes.c_float) for name in ("limit", "slope")))


class FeedForwardStruct(ctypes.Structure):
    """native/after.h: FeedForward."""

    _fields_ = (
        ("up", WeightStruct),
        ("down", WeightStruct),
        ("activation", ActivatingStruct),
        *((name, ctypes.c_int64) for name in ("gated", "hidden")),
    )


class _AloneStruct(ctypes.Structure):
    """native/after.h: FeedAlone."""

    _fields_ = (
        ("layers", FeedForwardStruct),
        ("gate", ctypes.POINTER(WeightStruct)),
        *((name, ctypes.POINTER(NormStruct)) for name in ("before", "after")),
    )


class LaidFeedForward:
    """A feed-forward as the kernels take it."""

    def __init__(self, plain: FeedForward, form: Form) -> None:
        value = plain.value
        up = panels.lay_out(plain.up.weight, plain.up.bias, form=form, paired=value.gated)
        down = panels.lay_out(plain.down.weight, plain.down.bias, form=form)
        self.weights: tuple[PanelWeight, ...] = up, down
        self.struct = FeedForwardStruct(up.struct, down.struct, activating(value), int(value.gated), value.hidden)


class PanelFeedForward(nn.Module):
    """Stands in for a FeedForward that `fits` between its norms, if any; its output is multiplied by the sigmoid of a
    gate (1, width), if any."""

    def __init__(
        self, plain: FeedForward, gate: nn.Linear | None = None, norms: Norms = (None, None), *, form: Form
    ) -> None:
        super().__init__()
        laid = LaidFeedForward(plain, form)
        opens = None if gate is None else panels.lay_out(gate.weight, gate.bias, form=form)
        self.weights = (*laid.weights, *([] if opens is None else [opens]))
        self._norms = [LaidNorm.of(norm) for norm in norms]
        self.struct = _AloneStruct(
            laid.struct, None if opens is None else ctypes.pointer(opens.struct), *map(pointer, self._norms)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        native.call(
            "dyno_feed",
            x.dtype,
            ctypes.byref(self.struct),
            len(x),
            *map(address, (x, out)),
        )
        return out


def fits(branch: nn.Module | None) -> TypeGuard[FeedForward]:
    """Whether it is a plain feed-forward whose weights can be laid out, of an activation that the kernels know."""
    return isinstance(branch, FeedForward) and all(panels.supported(layer.weight) for layer in (branch.up, branch.down))


def activating(value: config.FeedForward) -> ActivatingStruct:
    """What the kernels take of an activation that they know."""
    if isinstance(value.activation, config.ClampedGate):
        return ActivatingStruct(len(NAMES), value.activation.limit, value.activation.slope)
    return ActivatingStruct(NAMES.index(value.activation))
