"""A linear layer of few tokens in one kernel: RMS norm before it, bias, activation, gate and residual behind it.

Such a layer costs the reading of its weights. Each program reads some rows of them once, for all tokens.

Shape letters: T tokens, D depth (numbers of an input), N columns (numbers of an output).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from model.kernels.card.launch import early, tile

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
LINE = 128  # bytes that the memory of a card moves at once
AHEAD = 1024  # numbers of each row of weights that are asked for before the kernel before has ended


@dataclass(frozen=True, slots=True)
class Gain:
    """An RMS norm: weight (D,) or None, to which `offset` is added, and what keeps the root from being 0."""

    weight: Tensor | None
    offset: float
    eps: float


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a layer is cut: columns and depth (of numbers of 16 bits) of a tile of weights, warps of a program, tiles on
    their way at once."""

    columns: int
    depth: int
    warps: int
    stages: int


@triton.jit
def activate(x, KIND: tl.constexpr):
    """model/feedforward.py: ACTIVATIONS, of float32."""
    if KIND == "silu":
        x = x * tl.sigmoid(x)
    elif KIND == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif KIND == "relu":
        x = tl.maximum(x, 0.0)
    elif KIND == "relu2":
        x = tl.maximum(x, 0.0)
        x = x * x
    return x


@triton.jit
def ask(weight, n, columns, depth, AHEAD: tl.constexpr, PER_LINE: tl.constexpr):
    """Ask for the beginning of rows n of a matrix, to be near when they are read."""
    column = tl.arange(0, AHEAD // PER_LINE) * PER_LINE
    lines = weight + tl.minimum(n, columns - 1).to(tl.int64)[:, None] * depth + tl.minimum(column, depth - 1)[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [lines.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["tokens"])
def _linear(
    x, weight, bias, gain, added, out,
    tokens, depth, columns, eps, offset,
    NORMED: tl.constexpr, GAINED: tl.constexpr, BIASED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    KIND: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, WHOLE: tl.constexpr,
    AHEAD: tl.constexpr, PER_LINE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * N + tl.arange(0, N)
    m = tl.program_id(1) * M + tl.arange(0, M)
    if EARLY:
        gdc_launch_dependents()
        if AHEAD > 0:
            ask(weight, n, columns, depth, AHEAD, PER_LINE)
            if GATED:
                ask(weight + columns.to(tl.int64) * depth, n, columns, depth, AHEAD, PER_LINE)
        gdc_wait()
    inside, named = m < tokens, n < columns
    rows = weight + n.to(tl.int64)[:, None] * depth
    more = rows + columns.to(tl.int64) * depth
    sums = tl.zeros((M, N), tl.float32)
    gates = tl.zeros((M, N), tl.float32)
    squares = tl.zeros((M,), tl.float32)
    for start in range(0, depth, D):
        d = start + tl.arange(0, D)
        known = d < depth
        a = tl.load(x + m[:, None] * depth + d[None, :], inside[:, None] & known[None, :], 0.0)
        there = named[:, None] if WHOLE else named[:, None] & known[None, :]
        b = tl.load(rows + d[None, :], there, 0.0)
        if NORMED:
            wide = a.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            if GAINED:
                factor = tl.load(gain + d, known, 0.0).to(tl.float32) + offset
                a = (wide * factor[None, :]).to(b.dtype)
        sums = tl.dot(a, tl.trans(b), sums, input_precision="ieee")
        if GATED:
            b = tl.load(more + d[None, :], there, 0.0)
            gates = tl.dot(a, tl.trans(b), gates, input_precision="ieee")
    if NORMED:
        scale = tl.rsqrt(squares / depth + eps)
        sums *= scale[:, None]
        gates *= scale[:, None]
    if BIASED:
        sums += tl.load(bias + n, named, 0.0).to(tl.float32)[None, :]
        if GATED:
            gates += tl.load(bias + columns + n, named, 0.0).to(tl.float32)[None, :]
    sums = activate(sums, KIND)
    if GATED:
        sums *= gates
    place = m.to(tl.int64)[:, None] * columns + n[None, :]
    wanted = inside[:, None] & named[None, :]
    if ADDED:
        sums += tl.load(added + place, wanted, 0.0).to(tl.float32)
    tl.store(out + place, sums.to(out.dtype.element_ty), wanted)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Gain | None = None,
    activation: str = "",
    gated: bool = False,
    added: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """x (T, D), weight (N, D), or (2 N, D) with the gate's rows first when gated → (T, N), with `added` (T, N) added.

    Both x and weight lie dense.
    """
    tokens, depth = x.shape
    columns = len(weight) // (2 if gated else 1)
    out = torch.empty(tokens, columns, dtype=x.dtype, device=x.device)
    rows = min(tile(tokens), 64)
    cut = tiles or tiles_of(columns, depth, gated)
    across, per_line = cut.depth * 2 // weight.itemsize, LINE // weight.itemsize
    _linear[triton.cdiv(columns, cut.columns), triton.cdiv(tokens, rows)](
        x, weight, bias, None if norm is None else norm.weight, added, out,
        tokens, depth, columns, 0.0 if norm is None else norm.eps, 0.0 if norm is None else norm.offset,
        NORMED=norm is not None, GAINED=norm is not None and norm.weight is not None, BIASED=bias is not None,
        GATED=gated, ADDED=added is not None, KIND=activation, M=rows, N=cut.columns, D=across,
        WHOLE=depth % across == 0, AHEAD=AHEAD, PER_LINE=per_line,
        num_warps=cut.warps, num_stages=cut.stages, **early(x),
    )  # fmt: skip
    return out


def tiles_of(columns: int, depth: int, gated: bool) -> Tiles:
    """The cut that was fastest on an H100."""
    return Tiles(16, 256, 2, 4)
