"""A mixture in panels: all experts of a layer in one call (native/experts.h), and its router."""

from __future__ import annotations

import ctypes
from typing import TypeGuard

import torch
from torch import Tensor

from model import config
from model.kernels import native, panels
from model.kernels.before import LaidNorm, Norms, NormStruct, pointer
from model.kernels.feeding import ActivatingStruct, activating
from model.kernels.native import address
from model.kernels.panels import Form, PanelWeight, WeightStruct
from model.moe import Experts, ExpertStack, Router, Routing

SCORES = ("softmax", "sigmoid", "sqrtsoftplus")  # in the order of native/router.h, which the sparse mixer ends


class _ExpertsStruct(ctypes.Structure):
    """native/experts.h: Experts."""

    _fields_ = (
        ("up", ctypes.POINTER(WeightStruct)),
        ("down", ctypes.POINTER(WeightStruct)),
        *((name, ctypes.POINTER(NormStruct)) for name in ("before", "after")),
        ("activation", ActivatingStruct),
        *((name, ctypes.c_int64) for name in ("count", "active", "gated", "hidden", "weigh_input")),
    )


class _RouterStruct(ctypes.Structure):
    """native/router.h: Router."""

    _fields_ = (
        ("before", ctypes.POINTER(NormStruct)),
        ("weight", WeightStruct),
        ("correction", ctypes.c_void_p),
        ("gain", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("score", "normalise", "experts", "active", "groups", "kept", "by_best")),
        ("capacity", ctypes.c_int64),
        *((name, ctypes.c_float) for name in ("scale", "tolerance")),
    )


class RoutingStruct(ctypes.Structure):
    """native/router.h: Routing."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("experts", "gates", "logits", "ranked"))


class LoadsStruct(ctypes.Structure):
    """native/router.h: Loads."""

    _fields_ = (*((name, ctypes.c_void_p) for name in ("sequence", "prior")), ("width", ctypes.c_int64))


class PanelExperts(ExpertStack):
    """Stands in for Experts that `fits`, with the norms around them all, if any."""

    def __init__(self, plain: Experts, form: Form, norms: Norms = (None, None)) -> None:
        super().__init__(plain.value, plain.count)
        value = plain.value
        self.up = _stack(plain.up, plain.up_bias, form=form, paired=value.gated)
        self.down = _stack(plain.down, plain.down_bias, form=form)
        self._norms = [LaidNorm.of(norm) for norm in norms]
        self.struct = _ExpertsStruct(
            panels.structs(self.up),
            panels.structs(self.down),
            *map(pointer, self._norms),
            count=plain.count,
            activation=activating(value),
            gated=int(value.gated),
            hidden=value.hidden,
        )

    def choosing(self, active: int, weigh: str) -> _ExpertsStruct:
        """The struct for a kernel that mixes `active` choices of every token, weighed at the input or the output."""
        self.struct.active, self.struct.weigh_input = active, int(weigh == "input")
        return self.struct

    def mix(self, x: Tensor, routing: Routing, weigh: str) -> Tensor:
        x, experts, gates = x.contiguous(), routing.experts.contiguous(), routing.gates.float().contiguous()
        out = torch.empty_like(x)
        native.call(
            "dyno_mix",
            x.dtype,
            ctypes.byref(self.choosing(experts.shape[1], weigh)),
            len(x),
            *map(address, (x, experts, gates, out)),
        )
        return out


class PanelRouter(Router):
    """Stands in for a Router; its weight is widened once, and a token's scores never depend on the tokens beside it."""

    def __init__(self, plain: Router) -> None:
        super().__init__(plain.value, plain.weight.shape[1])
        bias = None if plain.bias is None else plain.bias.detach()
        self.laid = panels.lay_out(plain.weight.detach().float(), bias)
        self.bias, self.gain, self.correction, self.norm = plain.bias, plain.gain, plain.correction, plain.norm
        self.struct = self._struct()
        del self.weight

    def forward(self, x: Tensor) -> Routing:
        if self.training:
            return super().forward(x)
        x, routing = x.contiguous(), empty_routing(len(x), self.value)
        native.call(
            "dyno_route",
            x.dtype,
            ctypes.byref(self.struct),
            len(x),
            x.data_ptr(),
            ctypes.byref(pointers(routing)),
        )
        return routing

    def scores(self, x: Tensor) -> Tensor:
        return panels.linear(x, self.laid)

    def _struct(self) -> _RouterStruct:
        value, how = self.value, self.value.router
        groups = how.groups
        self._correction = None if self.correction is None else self.correction.float().contiguous()
        self._gain = None if self.gain is None else 1 + self.gain.detach().float()
        self._norm = LaidNorm.of(self.norm)
        return _RouterStruct(
            pointer(self._norm),
            self.laid.struct,
            address(self._correction),
            address(self._gain),
            groups=0 if groups is None else groups.count,
            kept=0 if groups is None else groups.kept,
            by_best=int(groups is not None and groups.score == "max"),
            capacity=0 if how.capacity is None else how.capacity.per_expert(value.experts),
            score=SCORES.index(how.score) if isinstance(how.score, str) else len(SCORES),
            normalise=int(how.normalise),
            experts=value.experts,
            active=value.active,
            scale=how.scale,
            tolerance=0.0 if isinstance(how.score, str) else how.score.tolerance,
        )


def empty_routing(tokens: int, value: config.MoE) -> Routing:
    """A Routing of so many tokens whose numbers are not written yet."""
    widths = value.active, value.experts, value.active + 1
    gates, logits, ranked = (torch.empty(tokens, width, dtype=torch.float32) for width in widths)
    return Routing(torch.empty(tokens, value.active, dtype=torch.int64), gates, logits, ranked)


def pointers(routing: Routing) -> RoutingStruct:
    """Where a routing's numbers are; it has to live as long as they are used."""
    return RoutingStruct(*map(address, (routing.experts, routing.gates, routing.logits, routing.ranked)))


def fits(stack: ExpertStack) -> TypeGuard[Experts]:
    """Whether they are plain experts whose weights can be laid out in panels."""
    return isinstance(stack, Experts) and all(panels.supported(weight) for weight in (stack.up, stack.down))


def _stack(weights: Tensor, biases: Tensor | None, *, form: Form, paired: bool = False) -> list[PanelWeight]:
    every = [None] * len(weights) if biases is None else list(biases)
    return [panels.lay_out(w, b, form=form, paired=paired) for w, b in zip(weights, every, strict=True)]
