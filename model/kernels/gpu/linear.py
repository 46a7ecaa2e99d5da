"""A linear layer of one token in one kernel: RMS norm before it, bias, activation, gate and residual behind it. More
tokens go through the library's product, and what surrounds it through kernels of its own.

Such a layer costs the reading of its weights. Each program reads a few rows of them, straight into registers.

Shape letters: T tokens, D depth (numbers of an input), N columns (numbers of an output), W width, A chosen experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.gpu.launch import early, let_in, wait

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
GATED = 1024  # numbers that one program gates


@dataclass(frozen=True, slots=True)
class Gain:
    """An RMS norm: weight (D,) or None, to which `offset` is added, and what keeps the root from being 0."""

    weight: Tensor | None
    offset: float
    eps: float


@dataclass(frozen=True, slots=True)
class Tiles:
    """How weights are cut: rows and numbers of a row that a program reads at once, its warps, and how many tiles are on
    their way at once where they pass through shared memory."""

    columns: int
    depth: int
    warps: int
    stages: int = 1


@triton.jit
def activate(x, KIND: tl.constexpr):
    """x (float32) through the activation KIND of model/feedforward.py."""
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
def _vector(
    x, weight, bias, gain, added, experts, out,
    depth, columns, eps, offset,
    NORMED: tl.constexpr, GAINED: tl.constexpr, BIASED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    CHOSEN: tl.constexpr, SPREAD: tl.constexpr, KIND: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    let_in(EARLY)
    if CHOSEN:
        wait(EARLY)
    n = tl.program_id(0) * N + tl.arange(0, N)
    height = columns * 2 if GATED else columns
    if CHOSEN:
        turn, expert = tl.program_id(1), tl.load(experts + tl.program_id(1))
        weight += expert * height * depth
        out += turn * columns
        if BIASED:
            bias += expert * height
        if SPREAD:
            x += turn * depth
    d, named = tl.arange(0, D), n < columns
    rows = weight + n.to(tl.int64)[:, None] * depth
    more = rows + columns.to(tl.int64) * depth
    there = named[:, None] & (d < depth)[None, :]
    b = tl.load(rows + d[None, :], there, 0.0)
    c = b
    if GATED:
        c = tl.load(more + d[None, :], there, 0.0)
    if not CHOSEN:
        wait(EARLY)
    sums, gates, squares = tl.zeros((N, D), tl.float32), tl.zeros((N, D), tl.float32), tl.zeros((D,), tl.float32)
    for start in range(0, depth, D):
        at, ahead = start + d, start + D + d
        there = named[:, None] & (ahead < depth)[None, :]
        next_b = tl.load(rows + ahead[None, :], there, 0.0)
        next_c = next_b
        if GATED:
            next_c = tl.load(more + ahead[None, :], there, 0.0)
        a = tl.load(x + at, at < depth, 0.0).to(tl.float32)
        if NORMED:
            squares += a * a
            if GAINED:
                a *= tl.load(gain + at, at < depth, 0.0).to(tl.float32) + offset
        sums += a[None, :] * b.to(tl.float32)
        if GATED:
            gates += a[None, :] * c.to(tl.float32)
        b, c = next_b, next_c
    scale = tl.rsqrt(tl.sum(squares, 0) / depth + eps) if NORMED else 1.0
    y = tl.sum(sums, 1) * scale
    if BIASED:
        y += tl.load(bias + n, named, 0.0).to(tl.float32)
    y = activate(y, KIND)
    if GATED:
        gate = tl.sum(gates, 1) * scale
        if BIASED:
            gate += tl.load(bias + columns + n, named, 0.0).to(tl.float32)
        y *= gate
    if ADDED:
        y += tl.load(added + n, named, 0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), named)


@triton.jit
def _norm(x, gain, out, width, eps, offset, W: tl.constexpr, GAINED: tl.constexpr, EARLY: tl.constexpr):
    let_in(EARLY)
    wait(EARLY)
    w = tl.arange(0, W)
    place = tl.program_id(0).to(tl.int64) * width + w
    y = tl.load(x + place, w < width, 0.0).to(tl.float32)
    y *= tl.rsqrt(tl.sum(y * y, 0) / width + eps)
    if GAINED:
        y *= tl.load(gain + w, w < width, 0.0).to(tl.float32) + offset
    tl.store(out + place, y.to(out.dtype.element_ty), w < width)


@triton.jit
def _gate(x, out, columns, KIND: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    let_in(EARLY)
    wait(EARLY)
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(x + row * 2 * columns + n, n < columns, 0.0).to(tl.float32)
    y = activate(gate, KIND) * tl.load(x + (row * 2 + 1) * columns + n, n < columns, 0.0).to(tl.float32)
    tl.store(out + row * columns + n, y.to(out.dtype.element_ty), n < columns)


def vector(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Gain | None = None,
    activation: str = "",
    gated: bool = False,
    added: Tensor | None = None,
    experts: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """One token x (1, D) through weight (N, D), or (2 N, D) with the gate's rows first when gated → (1, N), with
    `added` (1, N) added. All lie dense.

    experts (1, A): through those of a stack (E, N, D) or (E, 2 N, D), or of x (A, D) each row through its own → (A, N).
    """
    depth = x.shape[1]
    columns = weight.shape[-2] // (2 if gated else 1)
    choices = 1 if experts is None else experts.shape[1]
    out = torch.empty(choices, columns, dtype=x.dtype, device=x.device)
    cut = tiles or tiles_of(columns, gated)
    _vector[triton.cdiv(columns, cut.columns), choices](
        x, weight, bias, None if norm is None else norm.weight, added, experts, out,
        depth, columns, 0.0 if norm is None else norm.eps, 0.0 if norm is None else norm.offset,
        NORMED=norm is not None, GAINED=norm is not None and norm.weight is not None, BIASED=bias is not None,
        GATED=gated, ADDED=added is not None, CHOSEN=experts is not None, SPREAD=len(x) > 1, KIND=activation,
        N=cut.columns, D=cut.depth, num_warps=cut.warps, **early(x),
    )  # fmt: skip
    return out


def normed(x: Tensor, norm: Gain) -> Tensor:
    """x (T, W) → each token normed (T, W)."""
    out, width = torch.empty_like(x), x.shape[1]
    _norm[(len(x),)](
        x, norm.weight, out, width, norm.eps, norm.offset,
        W=triton.next_power_of_2(width), GAINED=norm.weight is not None, **early(x),
    )  # fmt: skip
    return out


def gated(x: Tensor, activation: str) -> Tensor:
    """x (T, 2 N), the gates first → activated gates times the rest (T, N)."""
    columns = x.shape[1] // 2
    out = x.new_empty(len(x), columns)
    _gate[len(x), triton.cdiv(columns, GATED)](x, out, columns, KIND=activation, BLOCK=GATED, **early(x))
    return out


def tiles_of(columns: int, gated: bool) -> Tiles:
    """The cuts that were fastest on an H100."""
    if gated:
        return Tiles(4, 512, 4)
    return Tiles(4, 1024, 8) if columns <= 2048 else Tiles(2, 1024, 4)
