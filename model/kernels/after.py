"""What comes after attention in a fused block, in one call (native/after.h): projection, residual, norm, and the
feed-forward where there is one."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from model.attention import GroupedAttention, LatentAttention
from model.feedforward import FeedForward
from model.kernels import native, panels
from model.kernels.before import Before, LaidNorm, LatentBefore, NormStruct
from model.kernels.experts import ACTIVATIONS
from model.kernels.native import address
from model.kernels.panels import Form, PanelWeight, WeightStruct
from model.norm import Norm


class _FeedForwardStruct(ctypes.Structure):
    """native/after.h: FeedForward."""

    _fields_ = (
        ("before", NormStruct),
        ("up", WeightStruct),
        ("down", WeightStruct),
        *((name, ctypes.c_int64) for name in ("activation", "gated", "hidden")),
    )


class After:
    """What comes after attention: its output and x → x + projection + feed-forward, or the first sum and its norm."""

    def __init__(
        self,
        norm: Norm,
        attention: GroupedAttention | LatentAttention,
        branch: FeedForward | None,
        before: Before,
        form: Form,
    ) -> None:
        """branch: None where a mixture follows. before: what gave attention its queries."""
        self.out = panels.lay_out(attention.out.weight, attention.out.bias, form=form)
        self.norm = LaidNorm(norm)
        self.latent = before.struct if isinstance(before, LatentBefore) else None
        self.feed: _FeedForwardStruct | None = None
        self.weights: tuple[PanelWeight, ...] = (self.out,)
        if branch is not None:
            value = branch.value
            up = panels.lay_out(branch.up.weight, branch.up.bias, form=form, paired=value.gated)
            down = panels.lay_out(branch.down.weight, branch.down.bias, form=form)
            self.weights = self.out, up, down
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
            None if self.latent is None else ctypes.byref(self.latent),
            None if self.feed is None else ctypes.byref(self.feed),
            ctypes.byref(self.norm.struct),
            len(x),
            *map(address, (x, attended, out, normed)),
            native.threads(),
        )
        return out, normed
