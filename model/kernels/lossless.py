"""bfloat16 weights in 12 bits, from which all 16 come back (native/lossless.h): a quarter less to read.

Of a number's 16 bits the upper 8, its sign and most of its exponent, are one of sixteen in nearly all weights of a
layer, as few of them are much smaller than the largest. Numbers with others are kept beside them, with their
neighbours.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels import native
from model.kernels.native import address

UNIT, UNIT_BYTES = 128, 192  # numbers that are kept together, and what they take
CODES = 16
SAMPLE = 1 << 20  # numbers that the choice of codes looks at
MOST_ODD = 1 / 16  # share of units that are kept whole beside, from which on a layer is better left as it is


class LosslessStruct(ctypes.Structure):
    """native/lossless.h: Lossless."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("upper", "starts", "odd", "numbers"))


@dataclass(frozen=True, eq=False)
class Lossless:
    """Packed panels: kept (panels, units, 192) in uint8; `struct` points to the tensors of `parts`."""

    kept: Tensor
    struct: LosslessStruct
    parts: tuple[Tensor, ...]


def pack(panels: Tensor) -> Lossless | None:
    """Panels (panels, K / 2, 32, 2) in bfloat16, in 12 bits; None where too many numbers have no code."""
    assert panels.dtype == torch.bfloat16
    count, units = len(panels), panels.numel() // len(panels) // UNIT
    upper = _upper(panels)
    kept, odd = torch.empty(count, units, UNIT_BYTES, dtype=torch.uint8), torch.empty(count, units, dtype=torch.uint8)
    pointers = map(address, (panels, upper, kept, odd))
    native.kernels().dyno_pack(count * units, *pointers, native.threads())
    panel, unit = odd.nonzero(as_tuple=True)
    if len(unit) > MOST_ODD * odd.numel():
        return None
    starts = torch.zeros(count + 1, dtype=torch.int64)
    starts[1:] = odd.sum(1, dtype=torch.int64).cumsum(0)
    parts = upper, starts, unit.int(), panels.view(count, units, UNIT)[panel, unit]
    return Lossless(kept, LosslessStruct(*(part.data_ptr() for part in parts)), parts)


def _upper(panels: Tensor) -> Tensor:
    """The sixteen commonest upper bytes of a sample, uint8 (16,)."""
    upper = panels.flatten().view(torch.uint8)[1::2]
    counts = torch.bincount(upper[:: -(-len(upper) // SAMPLE)].int(), minlength=256)
    return counts.topk(CODES).indices.to(torch.uint8)
