"""Linear layers over weights laid out in panels of 32 columns (native/linear.h): with few rows at the speed memory is
read, with many at that of the vector units, and a row's result never depends on the rows beside it.

Shape letters: N rows of y = x Wᵀ are `out` columns of W, K numbers each; d numbers of a row meet in one step (2 in
bfloat16, 1 in float32, 4 where both are of 8 bits).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels import lossless, native
from model.kernels.lossless import UNIT, UNIT_BYTES, Lossless, LosslessStruct
from model.kernels.native import address

PANEL = 32
GROUP = 32  # numbers of a row that are rounded together
DEPTH = {torch.float32: 1, torch.bfloat16: 2}

# What a linear layer multiplies: its weight as it is, where it is bfloat16 kept in 12 bits that give back all 16; the
# same kept as it is; its weight rounded to 8 bits, one scale an output; the same with rows that are rounded to 8 bits
# on the way, one scale for every 32 numbers, so that products are of whole numbers.
Form = Literal["lossless", "whole", "int8", "w8a8"]


class WeightStruct(ctypes.Structure):
    """native/linear.h: Weight."""

    _fields_ = (
        ("panels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("depth", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("rounds", ctypes.c_int64),
        ("lossless", ctypes.POINTER(LosslessStruct)),
    )


@dataclass(frozen=True, eq=False)
class PanelWeight:
    """One layer's weight. numbers (panels, K / d, 32, d) of the layer's type, or int8 with scales (panels * 32,) in
    float32, or in uint8 the same and 128 more; bias (panels * 32,) in float32 or None; `dtype` is the type of x. Where
    `lossless` is set, numbers are its units."""

    numbers: Tensor
    lossless: Lossless | None
    scales: Tensor | None
    bias: Tensor | None
    dtype: torch.dtype
    depth: int
    columns: int
    struct: WeightStruct

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers, those that are kept whole beside the others included."""
        return self.numbers.nbytes + (0 if self.lossless is None else sum(part.nbytes for part in self.lossless.parts))


def supported(weight: Tensor) -> bool:
    """Whether a weight (out, in) can be laid out: the processor has the vector units and the shape suits them."""
    return weight.device.type == "cpu" and weight.dtype in native.linear_types() and weight.shape[-1] % 16 == 0


def available(form: Form, dtype: torch.dtype) -> Form | None:
    """The form that layers of this type get here when this one is asked for: lossless is whole where nothing is to be
    saved or there are no kernels; None where there are none for what was asked."""
    kernels = dtype in native.linear_types()
    if form == "lossless":
        return form if kernels and dtype == torch.bfloat16 else "whole"
    return form if kernels or form == "whole" else None


def weight_bytes(form: Form, dtype: torch.dtype) -> float:
    """Bytes of one weight in this form here. For a lossless one this is what packing aims at; what it comes to, a built
    model tells (passes.weight_bytes)."""
    found = available(form, dtype)
    if found == "lossless":
        return UNIT_BYTES / UNIT
    return dtype.itemsize if found == "whole" else 1


def lay_out(
    weight: Tensor, bias: Tensor | None = None, *, form: Form = "lossless", paired: bool = False
) -> PanelWeight:
    """A weight (out, in) with its bias (out,) in panels.

    form: w8a8 becomes int8 where rows do not consist of whole groups, and lossless whole where it saves nothing.
    paired: the first half of its rows are gates of the second half; a panel then holds 16 gates and the 16 rows that
    they belong to.
    """
    weight = weight.detach()
    columns, depth = weight.shape
    order = _paired(columns) if paired else None
    scales = None
    rounds = form == "w8a8" and depth % GROUP == 0
    if form in ("int8", "w8a8"):
        scales = weight.float().abs().amax(-1).clamp(min=1e-12) / 127
        numbers = (weight.float() / scales[:, None]).round()
        numbers = (numbers + 128).to(torch.uint8) if rounds else numbers.to(torch.int8)
    else:
        numbers = weight
    step = 4 if rounds else DEPTH[weight.dtype]
    arranged, scales, wide_bias = (_arranged(part, order) for part in (numbers, scales, bias))
    assert arranged is not None
    laid = arranged.view(-1, PANEL, depth // step, step).permute(0, 2, 1, 3).contiguous()
    packed = lossless.pack(laid) if form == "lossless" and weight.dtype == torch.bfloat16 else None
    laid = laid if packed is None else packed.kept
    wide_bias = None if wide_bias is None else wide_bias.float().contiguous()
    saved = None if packed is None else ctypes.pointer(packed.struct)
    struct = WeightStruct(laid.data_ptr(), address(scales), address(wide_bias), depth, columns, rounds, saved)
    return PanelWeight(laid, packed, scales, wide_bias, weight.dtype, depth, columns, struct)


def structs(weights: Sequence[PanelWeight]) -> ctypes.Array[WeightStruct]:
    """What the kernels take of several layers."""
    return (WeightStruct * len(weights))(*(weight.struct for weight in weights))


def linear(x: Tensor, weight: PanelWeight, *, wide: bool = False) -> Tensor:
    """x (rows, in) → (rows, out) in x's type, or in float32 if `wide`."""
    assert x.dtype == weight.dtype
    x = x.contiguous()
    rows = len(x)
    out = torch.empty(rows, weight.columns, dtype=torch.float32 if wide else x.dtype)
    if rows:
        native.call(
            "dyno_linear",
            x.dtype,
            wide,
            ctypes.addressof(weight.struct),  # by reference takes longer
            rows,
            x.data_ptr(),
            out.data_ptr(),
        )
    return out


def _paired(columns: int) -> Tensor:
    """The order of rows (columns,) in which 16 gates are followed by their 16 values."""
    half = torch.arange(columns // 2).view(-1, PANEL // 2)
    return torch.stack((half, half + columns // 2), dim=1).flatten()


def _arranged(x: Tensor | None, order: Tensor | None) -> Tensor | None:
    """The rows of x in this order, padded with zeros to a whole panel; None for None."""
    if x is None:
        return None
    x = x.detach() if order is None else x.detach()[order]
    missing = -len(x) % PANEL
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing)).contiguous()
