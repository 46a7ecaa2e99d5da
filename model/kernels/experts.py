"""A mixture in panels: all experts of a layer in one call (native/experts.h), and its router."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from model.kernels import native, panels
from model.kernels.panels import PanelWeight, WeightStruct
from model.moe import Experts, ExpertStack, Router, Routing

ACTIVATIONS = ("relu", "relu2", "gelu_tanh", "silu")  # that the kernels have, in the order of native/vector.h


class _ExpertsStruct(ctypes.Structure):
    """native/experts.h: Experts."""

    _fields_ = (
        ("up", ctypes.POINTER(WeightStruct)),
        ("down", ctypes.POINTER(WeightStruct)),
        *((name, ctypes.c_int64) for name in ("count", "active", "activation", "gated", "hidden", "weigh_input")),
    )


class PanelExperts(ExpertStack):
    """Stands in for Experts that `fits`."""

    def __init__(self, plain: Experts, int8: bool) -> None:
        super().__init__(plain.value, plain.count)
        value = plain.value
        self.up = _stack(plain.up, plain.up_bias, int8=int8, paired=value.gated)
        self.down = _stack(plain.down, plain.down_bias, int8=int8)
        assert isinstance(value.activation, str)
        self.struct = _ExpertsStruct(
            _structs(self.up),
            _structs(self.down),
            count=plain.count,
            activation=ACTIVATIONS.index(value.activation),
            gated=int(value.gated),
            hidden=value.hidden,
        )

    def mix(self, x: Tensor, routing: Routing, weigh: str) -> Tensor:
        library = native.library()
        assert library is not None
        x, experts, gates = x.contiguous(), routing.experts.contiguous(), routing.gates.float().contiguous()
        out = torch.empty_like(x)
        self.struct.active, self.struct.weigh_input = experts.shape[1], int(weigh == "input")
        library.dyno_mix(
            int(x.dtype == torch.bfloat16),
            ctypes.byref(self.struct),
            ctypes.c_int64(len(x)),
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, experts, gates, out)),
            torch.get_num_threads(),
        )
        return out


class PanelRouter(Router):
    """Stands in for a Router; its weight is widened once, and a token's scores never depend on the tokens beside it."""

    def __init__(self, plain: Router) -> None:
        super().__init__(plain.value, plain.weight.shape[1])
        bias = None if plain.bias is None else plain.bias.detach()
        self.laid = panels.lay_out(plain.weight.detach().float(), bias)
        self.bias, self.gain, self.correction, self.norm = plain.bias, plain.gain, plain.correction, plain.norm
        del self.weight

    def scores(self, x: Tensor) -> Tensor:
        return panels.linear(x, self.laid)


def fits(experts: Experts) -> bool:
    """Whether the weights can be laid out in panels and the kernels know the activation."""
    return experts.value.activation in ACTIVATIONS and all(
        panels.supported(weight) for weight in (experts.up, experts.down)
    )


def _stack(weights: Tensor, biases: Tensor | None, *, int8: bool, paired: bool = False) -> list[PanelWeight]:
    every = [None] * len(weights) if biases is None else list(biases)
    return [panels.lay_out(w, b, int8=int8, paired=paired) for w, b in zip(weights, every, strict=True)]


def _structs(weights: list[PanelWeight]) -> ctypes.Array[WeightStruct]:
    return (WeightStruct * len(weights))(*(weight.struct for weight in weights))
