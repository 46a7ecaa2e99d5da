"""What comes before the blocks and after them, in one call each (native/ends.h): the angles of rotary tables, and the
last norm with the head. With one row, a norm of a few operations of PyTorch takes as long as a layer of a small model.

A pass over a built model: `fuse(model)` replaces what it has kernels for.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from model.kernels import native, panels
from model.kernels.before import LaidNorm
from model.kernels.native import address
from model.kernels.packed import PanelLinear
from model.kernels.panels import Form
from model.norm import Norm
from model.position import RotaryTable
from model.transformer import Transformer


class _AnglesStruct(ctypes.Structure):
    """native/ends.h: Angles."""

    _fields_ = (("frequencies", ctypes.c_void_p), ("count", ctypes.c_int64), ("magnitude", ctypes.c_float))


class Angles(nn.Module):
    """Stands in for a RotaryTable: positions (rows,) int64 → cos and sin, each (rows, 1, rotated / 2)."""

    def __init__(self, plain: RotaryTable) -> None:
        super().__init__()
        self.frequencies = plain.frequencies.float().contiguous()
        self._struct = _AnglesStruct(address(self.frequencies), len(self.frequencies), plain.magnitude)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        assert positions.dtype == torch.int64
        positions, rows = positions.contiguous(), len(positions)
        both = torch.empty(2, rows, 1, len(self.frequencies), dtype=dtype)
        cos, sin = both[0], both[1]
        native.call(
            "dyno_turn",
            dtype,
            ctypes.byref(self._struct),
            rows,
            *map(address, (positions, cos, sin)),
        )
        return cos, sin


class NormedHead(PanelLinear):
    """Stands in for the last norm and the head: x (rows, width) → float32 logits (rows, vocab)."""

    def __init__(self, norm: Norm, weight: Tensor, bias: Tensor | None, *, form: Form) -> None:
        super().__init__(weight, bias, form=form, wide=True)
        self._norm = LaidNorm(norm)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == self.weight.dtype
        x, rows = x.contiguous(), len(x)
        logits = torch.empty(rows, self.weight.columns, dtype=torch.float32)
        if rows:
            native.call(
                "dyno_finish",
                x.dtype,
                ctypes.byref(self._norm.struct),
                ctypes.byref(self.weight.struct),
                rows,
                *map(address, (x, logits)),
            )
        return logits


def fuse(model: Transformer, *, form: Form = "lossless") -> int:
    """Replace rotary tables and the last norm with the head; returns how many. form: of the head's weight."""
    count = 0
    for i, table in enumerate(model.tables):
        if isinstance(table, RotaryTable) and _known(table.frequencies, model.embedding.weight.dtype):
            model.tables[i] = Angles(table)
            count += 1
    norm, head = model.norm, model.head
    weight = model.embedding.weight if head is None else head.weight if isinstance(head, nn.Linear) else None
    if isinstance(norm, Norm) and isinstance(weight, Tensor) and panels.supported(weight):
        bias = head.bias if isinstance(head, nn.Linear) else model.head_bias
        model.head, model.norm = NormedHead(norm, weight, bias, form=form), nn.Identity()
        count += 1
    return count


def _known(numbers: Tensor, dtype: torch.dtype) -> bool:
    return numbers.device.type == "cpu" and dtype in native.linear_types()
