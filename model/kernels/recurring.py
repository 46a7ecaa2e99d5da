"""Recurrent mixers by the compiled kernel (native/recur.h): all rows of a step in one call, one token after another.

It gives what recurrence.py gives, but for the last bits, and a token's numbers do not depend on its company.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.config import FixedDecay, Recurrent
from model.kernels import native
from model.kernels.native import address
from model.kernels.recurrence import UNIT_EPS, Fed, Mixing, fixed_rates, norm_parts, norm_weight

if TYPE_CHECKING:
    from model.states import Moves

GATES = {"silu": 1, "sigmoid": 2}  # as native/recur.h has them


class _MixingStruct(ctypes.Structure):
    """native/recur.h: Mixing."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("heads", "keys", "key_dim", "value_dim", "width", "delta", "discrete")),
        *((name, ctypes.c_int64) for name in ("steps", "gate", "gate_first", "parts")),
        *((name, ctypes.c_float) for name in ("eps", "unit_eps")),
        *((name, ctypes.c_void_p) for name in ("taps", "tap_bias", "rates", "step_bias", "skip", "norm")),
    )


class _FedStruct(ctypes.Structure):
    """native/recur.h: Fed."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("mixed", "gate", "decay", "strength")),
        *((f"{name}_stride", ctypes.c_int64) for name in ("mixed", "gate", "decay", "strength")),
    )


class _MovesStruct(ctypes.Structure):
    """native/recur.h: Moves."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("starts", "before", "after", "slots")),
        ("numbers", ctypes.c_int64),
    )


class CompiledMixing:
    """The weights of a mixer that `fits`, as the kernel takes them."""

    def __init__(self, mixing: Mixing) -> None:
        value, decay = mixing.value, mixing.value.decay
        if isinstance(decay, FixedDecay) or mixing.rate is None:
            rates = torch.exp(-fixed_rates(value))
        else:
            rates = mixing.rate.float().exp().repeat_interleave(value.steps // value.heads)
        taps = None if mixing.taps is None else mixing.taps.float().t().contiguous()
        tap_bias, skip, step_bias = (
            None if x is None else x.float() for x in (mixing.tap_bias, mixing.skip, mixing.step_bias)
        )
        self._inner = value.inner
        self._kept = taps, tap_bias, _padded(rates), _padded(step_bias), skip, norm_weight(mixing)
        self._struct = _MixingStruct(
            *(value.heads, value.keys, value.key_dim, value.value_dim),
            0 if value.convolution is None else value.convolution.width,
            int(value.rule == "delta"),
            int(not isinstance(decay, FixedDecay) and decay.discrete),
            value.steps,
            0 if value.gate is None else GATES[value.gate.activation],
            int(value.gate is not None and value.gate.before_norm),
            0 if value.norm is None else norm_parts(value),
            0.0 if value.norm is None else value.norm.eps,
            UNIT_EPS,
            *map(address, self._kept),
        )
        steps, heads = _sixteens(value.steps), _sixteens(value.heads)
        self._room = value.mixed + 2 * steps + (heads if value.rule == "delta" else 0) + value.inner

    def __call__(self, slots: Tensor, moves: Moves, fed: Fed) -> Tensor:
        """fed (T, n) each → (T, H * V), with the states in their slots carried on."""
        parts = fed.mixed, fed.gate, fed.decay, fed.strength
        out = fed.mixed.new_empty(len(fed.mixed), self._inner)
        room = torch.empty(len(fed.mixed) * self._room)
        way = (len(moves.before), moves.starts.ctypes.data, moves.before.ctypes.data, moves.after.ctypes.data)
        native.call(
            "dyno_recur",
            out.dtype,
            ctypes.byref(self._struct),
            ctypes.byref(_FedStruct(*map(address, parts), *(part.stride(0) for part in parts))),
            ctypes.byref(_MovesStruct(*way, address(slots), slots.shape[1])),
            address(room),
            address(out),
        )
        return out


def fits(value: Recurrent, weight: Tensor) -> bool:
    """Whether the kernel takes such heads, of a model of such weights."""
    known = weight.device.type == "cpu" and weight.dtype in native.linear_types()
    return known and value.key_dim % 16 == 0 and value.value_dim % 16 == 0


def _sixteens(count: int) -> int:
    return -(-count // 16) * 16


def _padded(numbers: Tensor | None) -> Tensor | None:
    """Zeros behind them, so that they can be read by sixteen."""
    return None if numbers is None else torch.nn.functional.pad(numbers, (0, _sixteens(len(numbers)) - len(numbers)))
