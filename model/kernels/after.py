"""What comes after attention, or a recurrent mixer, in a fused block, in one call (native/after.h): projection,
residual, norm, and the feed-forward where there is one."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from model import config
from model.attention import GroupedAttention, LatentAttention
from model.feedforward import FeedForward
from model.kernels import feeding, native, panels
from model.kernels.before import Before, GateStruct, LaidNorm, NormStruct, pointer
from model.kernels.latent import LatentBefore
from model.kernels.native import address
from model.kernels.panels import Form, PanelWeight, WeightStruct
from model.recurrent import RecurrentMixer
from model.stack import Block


class _JoiningStruct(ctypes.Structure):
    """native/after.h: Joining."""

    _fields_ = (("norm", ctypes.POINTER(NormStruct)), ("of_sum", ctypes.c_int64), ("scale", ctypes.c_float))


class _AfterStruct(ctypes.Structure):
    """native/after.h: After."""

    _fields_ = (
        ("projection", WeightStruct),
        ("latent", ctypes.c_void_p),
        ("gate", ctypes.POINTER(GateStruct)),
        *((name, _JoiningStruct) for name in ("attended", "fed")),
        ("before", ctypes.POINTER(NormStruct)),
        ("feed", ctypes.POINTER(feeding.FeedForwardStruct)),
        *((name, ctypes.c_int64) for name in ("parallel", "ends")),
    )


class After:
    """The output of attention and x → what a block gives; where it has a mixture, what that joins and what it sees."""

    def __init__(self, block: Block, width: int, before: Before | None, form: Form) -> None:
        """before: what gives attention its queries, or stands in its place; None in a block without."""
        mixer, branch = block.branches[0], block.branches[-1]
        self.weights: tuple[PanelWeight, ...] = ()
        self.width, projection, feed = width, WeightStruct(columns=width), None
        if before is not None:
            assert isinstance(mixer, GroupedAttention | LatentAttention | RecurrentMixer)
            out = panels.lay_out(mixer.out.weight, mixer.out.bias, form=form)
            self.weights, projection = (out,), out.struct
        if isinstance(branch, FeedForward):
            self.feed = feeding.LaidFeedForward(branch, form)
            self.weights += self.feed.weights
            feed = ctypes.pointer(self.feed.struct)
        self._before = before  # the memory of its latent and its gate
        ends = branch is mixer and before is not None
        attended = block.norms_after[0] if before is not None else None
        seen, fed = (None, None) if ends else (block.norms_before[-1], block.norms_after[-1])
        self._norms = [LaidNorm.of(norm) for norm in (attended, fed, seen)]
        self.mixes = feed is None and not ends
        self.struct = _AfterStruct(
            projection,
            ctypes.addressof(before.struct) if isinstance(before, LatentBefore) else None,
            None if before is None else before.gate,
            *(_joining(norm, block.value) for norm in self._norms[:2]),
            pointer(self._norms[2]),
            feed,
            int(block.value.parallel and len(block.branches) > 1),
            int(ends),
        )

    def __call__(self, x: Tensor, attended: Tensor | None, gates: Tensor | None) -> tuple[Tensor, Tensor]:
        out = x if self.mixes and self._before is None else torch.empty_like(x)
        attended = None if attended is None else attended.contiguous()
        normed = torch.empty_like(x) if self.mixes else out
        native.call(
            "dyno_leave",
            x.dtype,
            ctypes.byref(self.struct),
            len(x),
            *map(address, (x, attended, gates, out, normed)),
        )
        return out, normed

    def join(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The first sum, joined by what the mixture gives."""
        out, mixed = torch.empty_like(x), mixed.contiguous()
        native.call(
            "dyno_join",
            x.dtype,
            ctypes.byref(self.struct.fed),
            *x.shape,
            *map(address, (x, mixed, out)),
        )
        return out


def _joining(norm: LaidNorm | None, block: config.Block) -> _JoiningStruct:
    return _JoiningStruct(pointer(norm), int(block.placement == "post"), block.residual_scale)
