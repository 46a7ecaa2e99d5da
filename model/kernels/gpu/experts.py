"""A mixture of experts on few tokens, in four kernels: choose, up, down, add up. No token is moved: an expert that some
token chose reads its weights once, and takes those tokens out of all.

Shape letters: T tokens, E experts, A chosen experts a token, W width, N hidden numbers of an expert.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.gpu.launch import LEAST, early, let_in, shared_bytes, tile, wait
from model.kernels.gpu.linear import ACTIVATIONS, Gain, Tiles, activate, vector
from model.moe import Experts, MoE, Router, Routing

SCORES = ("softmax", "sigmoid", "sqrtsoftplus")
ROUTED = 8192  # numbers of a tile of the router's weights
MOST = 256  # experts that one program can choose among
SUMMED = 1024  # numbers that one program adds up


@triton.jit
def _choose(
    x, weight, bias, correction, gain, normed, experts, gates, logits, ranked,
    width, eps, offset, scale,
    E: tl.constexpr, A: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    KEPT: tl.constexpr, SCORE: tl.constexpr, GAINED: tl.constexpr, BIASED: tl.constexpr,
    CORRECTED: tl.constexpr, NORMALISED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_in(EARLY)
    wait(EARLY)
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    real = e < E
    w = tl.arange(0, WIDE)
    whole = tl.load(x + row * width + w, w < width, 0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(whole * whole, 0) / width + eps)
    found = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, width, CHUNK):
        c = begin + tl.arange(0, CHUNK)
        there = c < width
        part = tl.load(x + row * width + c, there, 0.0)
        scaled = part.to(tl.float32) * factor
        if GAINED:
            scaled *= tl.load(gain + c, there, 0.0).to(tl.float32) + offset
        part = scaled.to(part.dtype)
        tl.store(normed + row * width + c, part, there)
        rows = tl.load(weight + e[:, None] * width + c[None, :], real[:, None] & there[None, :], 0.0).to(tl.float32)
        found += tl.sum(rows * part.to(tl.float32)[None, :], 1)
    if BIASED:
        found += tl.load(bias + e, real, 0.0).to(tl.float32)
    tl.store(logits + row * E + e, found, real)
    if SCORE == "softmax":
        shifted = tl.where(real, found, float("-inf"))
        powers = tl.exp(shifted - tl.max(shifted, 0))
        scores = powers / tl.sum(powers, 0)
    elif SCORE == "sigmoid":
        scores = tl.sigmoid(found)
    else:
        scores = tl.sqrt(tl.maximum(found, 0.0) + tl.log(1 + tl.exp(-tl.abs(found))))
    choice = scores
    if CORRECTED:
        choice += tl.load(correction + e, real, 0.0).to(tl.float32)
    choice = tl.where(choice != choice, 3e38, choice)  # what is no number is chosen, and its row found out by that
    choice = tl.where(real, choice, float("-inf"))
    ids, chosen = take_best(choice, scores, ranked + row * (A + 1), E, A, BLOCK, KEPT)
    if NORMALISED:
        chosen = chosen / (tl.sum(chosen, 0) + 1e-20)
    a = tl.arange(0, KEPT)
    tl.store(experts + row * A + a, ids.to(tl.int64), a < A)
    tl.store(gates + row * A + a, chosen * scale, a < A)


@triton.jit
def take_best(choice, scores, ranked, E: tl.constexpr, A: tl.constexpr, BLOCK: tl.constexpr, KEPT: tl.constexpr):
    """The best A of E experts by `choice` and their scores, in order; `ranked` gets what they and the next one have."""
    e, a = tl.arange(0, BLOCK), tl.arange(0, KEPT)
    ids = tl.zeros((KEPT,), tl.int32)
    chosen = tl.zeros((KEPT,), tl.float32)
    for turn in tl.static_range(0, A + 1):
        if turn < E:
            tl.store(ranked + turn, tl.max(choice, 0))
        else:
            tl.store(ranked + turn, 0.0)
        if turn < A:
            expert = tl.minimum(tl.argmax(choice, 0), E - 1)
            ids = tl.where(a == turn, expert, ids)
            chosen = tl.where(a == turn, tl.sum(tl.where(e == expert, scores, 0.0), 0), chosen)
            choice = tl.where(e == expert, float("-inf"), choice)
    return ids, chosen


@triton.jit
def slots_of(experts, m, tokens, expert, A: tl.constexpr):
    """Which of its choices each token m has for an expert; -1 where it did not choose it."""
    slot = tl.full(m.shape, -1, tl.int32)
    for turn in tl.static_range(0, A):
        slot = tl.where(tl.load(experts + m * A + turn, m < tokens, -1) == expert, turn, slot)
    return slot


@triton.jit(do_not_specialize=["tokens"])
def _expert(
    x, weight, bias, experts, out, tokens, depth, columns,
    A: tl.constexpr, BIASED: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr, SPREAD: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_in(EARLY)
    wait(EARLY)
    expert = tl.program_id(1)
    n, m = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, M)
    slot = slots_of(experts, m, tokens, expert, A)
    if tl.max(slot, 0) < 0:
        return
    mine, named = slot >= 0, n < columns
    place = (m * A + slot).to(tl.int64)
    source = place if SPREAD else m.to(tl.int64)
    height = columns * 2 if GATED else columns
    rows = weight + (expert.to(tl.int64) * height + n)[:, None] * depth
    sums = tl.zeros((M, N), tl.float32)
    gates = tl.zeros((M, N), tl.float32)
    for start in range(0, depth, D):
        d = start + tl.arange(0, D)
        known = d < depth
        a = tl.load(x + source[:, None] * depth + d[None, :], mine[:, None] & known[None, :], 0.0)
        there = named[:, None] & known[None, :]
        b = tl.load(rows + d[None, :], there, 0.0)
        sums = tl.dot(a, tl.trans(b), sums, input_precision="ieee")
        if GATED:
            b = tl.load(rows + columns.to(tl.int64) * depth + d[None, :], there, 0.0)
            gates = tl.dot(a, tl.trans(b), gates, input_precision="ieee")
    if BIASED:
        sums += tl.load(bias + expert * height + n, named, 0.0).to(tl.float32)[None, :]
        if GATED:
            gates += tl.load(bias + expert * height + columns + n, named, 0.0).to(tl.float32)[None, :]
    sums = activate(sums, KIND)
    if GATED:
        sums *= gates
    tl.store(out + place[:, None] * columns + n[None, :], sums.to(out.dtype.element_ty), mine[:, None] & named[None, :])


@triton.jit
def _sum(x, gates, experts, added, out, width, A: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    let_in(EARLY)
    wait(EARLY)
    row, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(added + row * width + w, w < width, 0.0).to(tl.float32)
    for turn in tl.static_range(0, A):
        gate = tl.load(gates + row * A + turn)
        y = tl.load(x + (row * A + turn) * width + w, w < width, 0.0).to(tl.float32)
        total += tl.where(tl.load(experts + row * A + turn) < 0, 0.0, gate * y)
    tl.store(out + row * width + w, total.to(out.dtype.element_ty), w < width)


def fits(mixture: MoE) -> bool:
    """Whether the kernels choose and mix as this mixture does."""
    value, router = mixture.value, mixture.router
    how = value.router
    known = how.score in SCORES and how.groups is None and how.capacity is None and router.gain is None
    alike = isinstance(router.norm, torch.nn.Identity) and not mixture.training and value.weigh == "output"
    kind = value.expert.activation in ACTIVATIONS and isinstance(mixture.experts, Experts)
    return known and alike and kind and value.experts <= MOST


def choose(x: Tensor, router: Router, norm: Gain) -> tuple[Tensor, Routing]:
    """x (T, W) → x normed (T, W), and its routing."""
    value, (tokens, width) = router.value, x.shape
    count, active, how = value.experts, value.active, router.value.router
    normed = torch.empty_like(x)
    experts = torch.empty(tokens, active, dtype=torch.long, device=x.device)
    gates, logits, ranked = (
        torch.empty(tokens, n, dtype=torch.float32, device=x.device) for n in (active, count, active + 1)
    )
    block = triton.next_power_of_2(count)
    _choose[(tokens,)](
        x, router.weight, router.bias, router.correction, norm.weight, normed,
        experts, gates, logits, ranked,
        width, norm.eps, norm.offset, how.scale,
        E=count, A=active, WIDE=triton.next_power_of_2(width), BLOCK=block, CHUNK=max(16, ROUTED // block),
        KEPT=triton.next_power_of_2(active), SCORE=how.score,
        GAINED=norm.weight is not None, BIASED=router.bias is not None,
        CORRECTED=router.correction is not None, NORMALISED=how.normalise, **early(x),
    )  # fmt: skip
    return normed, Routing(experts, gates, logits, ranked)


def mix(x: Tensor, stack: Experts, routing: Routing, added: Tensor) -> Tensor:
    """x (T, W) through the experts that `routing` chose, weighed, with `added` (T, W) added."""
    value, (tokens, width), active = stack.value, x.shape, routing.experts.shape[1]
    chosen, kind = routing.experts, str(value.activation)
    if tokens == 1:
        hidden = vector(x, stack.up, stack.up_bias, activation=kind, gated=value.gated, experts=chosen)
        parts = vector(hidden, stack.down, stack.down_bias, experts=chosen)
    else:
        hidden, parts = x.new_empty(tokens * active, value.hidden), x.new_empty(tokens * active, width)
        _run(x, stack.up, stack.up_bias, chosen, hidden, kind, value.gated, spread=False)
        _run(hidden, stack.down, stack.down_bias, chosen, parts, "", False, spread=True)
    out = torch.empty_like(x)
    _sum[tokens, triton.cdiv(width, SUMMED)](
        parts, routing.gates, routing.experts, added, out, width, A=active, BLOCK=SUMMED, **early(x)
    )
    return out


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, experts: Tensor, out: Tensor, kind: str, gated: bool, spread: bool
) -> None:
    """Run a layer of every chosen expert into `out` (T A, columns). spread: x has a row for each choice of a token."""
    tokens, active = experts.shape
    cut, item = tiles_of(tokens, gated), weight.itemsize
    depth = cut.depth * 2 // item
    staged = (tile(tokens) + cut.columns * (2 if gated else 1)) * depth * item
    stages = max(1, min(cut.stages, shared_bytes(x) // staged))
    _expert[triton.cdiv(out.shape[1], cut.columns), len(weight)](
        x, weight, bias, experts, out, tokens, x.shape[1], out.shape[1],
        A=active, BIASED=bias is not None, GATED=gated, KIND=kind, SPREAD=spread,
        M=tile(tokens), N=cut.columns, D=depth, num_warps=cut.warps, num_stages=stages, **early(x),
    )  # fmt: skip


def tiles_of(tokens: int, gated: bool) -> Tiles:
    """The cuts that were fastest on an H100."""
    if gated:
        return Tiles(32, 128, 4, 4) if tokens <= LEAST else Tiles(64, 128, 4, 3)
    return Tiles(16, 128, 2, 6) if tokens <= LEAST else Tiles(16, 256, 4, 3)
