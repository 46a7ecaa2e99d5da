"""Recurrent mixers by the compiled kernel (native/recur.h): all rows of a step in one call, one token after another.

It gives what recurrence.py gives, but for the last bits, and a token's numbers do not depend on its company.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.config import Recurrent
from model.kernels import native, panels
from model.kernels.before import Before, LaidNorm, NormStruct, pointer
from model.kernels.native import address
from model.kernels.panels import Form, WeightStruct
from model.kernels.recurrence import UNIT_EPS, Fed, Mixing, fixed_rates, norm_parts, norm_weight
from model.norm import Norm
from model.recurrent import RecurrentMixer

if TYPE_CHECKING:
    from model.states import Moves

GATES = {"silu": 1, "sigmoid": 2}  # as native/recur.h has them


class MixingStruct(ctypes.Structure):
    """native/recur.h: Mixing."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("heads", "keys", "key_dim", "value_dim", "width", "delta", "discrete")),
        *((name, ctypes.c_int64) for name in ("steps", "gate", "gate_first", "parts")),
        *((name, ctypes.c_float) for name in ("eps", "unit_eps", "bound")),
        *((name, ctypes.c_void_p) for name in ("taps", "tap_bias", "rates", "step_bias", "skip", "norm")),
    )


class _FedStruct(ctypes.Structure):
    """native/recur.h: Fed."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("mixed", "gate", "decay", "strength")),
        *((f"{name}_stride", ctypes.c_int64) for name in ("mixed", "gate", "decay", "strength")),
    )


class MovesStruct(ctypes.Structure):
    """native/recur.h: Moves."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("starts", "before", "after", "slots")),
        ("numbers", ctypes.c_int64),
    )


class _RecurrentStruct(ctypes.Structure):
    """native/recur.h: Recurrent."""

    _fields_ = (
        ("before", ctypes.POINTER(NormStruct)),
        ("into", WeightStruct),
        *((name, ctypes.POINTER(WeightStruct)) for name in ("gate_up", "decay_up")),
        *((name, ctypes.c_int64) for name in ("gate_at", "decay_at", "strength_at")),
        ("mixing", MixingStruct),
    )


class CompiledMixing:
    """The weights of a mixer that `fits`, as the kernel takes them."""

    def __init__(self, mixing: Mixing) -> None:
        value, learned = mixing.value, mixing.value.learned
        if mixing.rate is None:
            rates = torch.exp(-fixed_rates(value))
        else:
            rates = mixing.rate.float().exp().repeat_interleave(value.steps // value.heads)
        taps = None if mixing.taps is None else mixing.taps.float().t().contiguous()
        others = mixing.tap_bias, mixing.skip, mixing.step_bias
        tap_bias, skip, step_bias = (None if x is None else x.float() for x in others)
        self.inner = value.inner
        self._kept = taps, tap_bias, _padded(rates), _padded(step_bias), skip, norm_weight(mixing)
        self.struct = MixingStruct(
            *(value.heads, value.keys, value.key_dim, value.value_dim),
            0 if value.convolution is None else value.convolution.width,
            int(value.rule == "delta"),
            int(learned is not None and learned.discrete),
            value.steps,
            0 if value.gate is None else GATES[value.gate.activation],
            int(value.gate is not None and value.gate.before_norm),
            0 if value.norm is None else norm_parts(value),
            0.0 if value.norm is None else value.norm.eps,
            UNIT_EPS,
            0.0 if learned is None else learned.bound or 0.0,
            *map(address, self._kept),
        )

    def __call__(self, slots: Tensor, moves: Moves, fed: Fed) -> Tensor:
        """fed (T, n) each → (T, H * V), with the states in their slots carried on."""
        parts = fed.mixed, fed.gate, fed.decay, fed.strength
        out = fed.mixed.new_empty(len(fed.mixed), self.inner)
        native.call(
            "dyno_recur",
            out.dtype,
            ctypes.byref(self.struct),
            ctypes.byref(_FedStruct(*map(address, parts), *(part.stride(0) for part in parts))),
            ctypes.byref(moves_struct(moves, slots)),
            address(out),
        )
        return out


def moves_struct(moves: Moves, slots: Tensor | None = None) -> MovesStruct:
    """What the kernels take of moves; it needs them to live on. Where slots are, callers may say later."""
    arrays = (part.ctypes.data for part in (moves.starts, moves.before, moves.after))
    return MovesStruct(len(moves.before), *arrays, address(slots), 0 if slots is None else slots.shape[1])


class RecurrentBefore(Before):
    """Of a recurrent mixer: x (T, width) → what tokens bring. mixing: for the view, which carries the states on."""

    def __init__(self, norm: Norm | None, mixer: RecurrentMixer, form: Form) -> None:
        value = mixer.value
        self.mixing = mixer.mixing()
        self.mixing = replace(self.mixing, compiled=CompiledMixing(self.mixing))
        self.gate, self.gated, self.table, self.widest = None, 0, None, 0
        self._norm = LaidNorm.of(norm)
        self.attended = value.inner
        into = panels.lay_out(mixer.into.weight, form=form)
        ups = [
            panels.lay_out(up.weight, form=form) if isinstance(up, nn.Linear) else None
            for up in (mixer.gate_up, mixer.decay_up)
        ]
        self.weights = (into, *(up for up in ups if up is not None))
        starts = list(accumulate(mixer.parts, initial=0))
        ends = [_sixteens(into.columns)]
        ends += [ends[-1] + (0 if ups[0] is None else value.inner)]
        self.placed = ends[-1] + (0 if ups[1] is None else _sixteens(value.steps))
        gate, decay = (starts[1] if ups[0] is None else ends[0]), (starts[2] if ups[1] is None else ends[1])
        sizes = value.mixed, 0 if value.gate is None else value.inner, value.steps, mixer.parts[3]
        places = zip((0, gate, decay, starts[3]), sizes, strict=True)
        self._parts = tuple(slice(start, start + size) for start, size in places)
        assert self.mixing.compiled is not None
        self.struct = _RecurrentStruct(
            pointer(self._norm),
            into.struct,
            *(None if up is None else ctypes.pointer(up.struct) for up in ups),
            *starts[1:4],
            self.mixing.compiled.struct,
        )

    def fed(self, x: Tensor) -> Fed:
        """What tokens bring, of x (T, width)."""
        placed = x.new_empty(len(x), self.placed)
        native.call("dyno_enter_recurrent", x.dtype, ctypes.byref(self.struct), len(x), address(x), address(placed))
        return Fed(*(placed[:, part] for part in self._parts))


def fits(value: Recurrent, weight: Tensor) -> bool:
    """Whether the kernel takes such heads, of a model of such weights."""
    known = weight.device.type == "cpu" and weight.dtype in native.linear_types()
    return known and value.key_dim % 16 == 0 and value.value_dim % 16 == 0


def _sixteens(count: int) -> int:
    return -(-count // 16) * 16


def _padded(numbers: Tensor | None) -> Tensor | None:
    """Zeros behind them, so that they can be read by sixteen."""
    return None if numbers is None else torch.nn.functional.pad(numbers, (0, _sixteens(len(numbers)) - len(numbers)))
