"""Norms of single heads and rotation of queries and keys, in one kernel.

Shape letters: T tokens, H query heads, K key heads, D head dim, R turned pairs of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from model.kernels.gpu.launch import early, let_in, wait
from model.kernels.gpu.linear import Gain


@dataclass(frozen=True, slots=True)
class Turn:
    """What happens to the heads of one layer: query and key heads, the norms of both (or none), and whether pairs are
    neighbours instead of halves of a head apart."""

    heads: int
    kv_heads: int
    dim: int
    norms: tuple[Gain, ...]
    neighbours: bool


@triton.jit
def _turn(
    x, cos, sin, query_gain, key_gain, query, key, stride, eps, offset,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, R: tl.constexpr, PAIRS: tl.constexpr, REST: tl.constexpr,
    NEIGHBOURS: tl.constexpr, NORMED: tl.constexpr, GAINED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_in(EARLY)
    wait(EARLY)
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pair, rest = tl.arange(0, PAIRS), 2 * R + tl.arange(0, REST)
    turned, kept = pair < R, rest < D
    first = pair * 2 if NEIGHBOURS else pair
    second = first + 1 if NEIGHBOURS else first + R
    start = x + row * stride + head * D
    a = tl.load(start + first, turned, 0.0).to(tl.float32)
    b = tl.load(start + second, turned, 0.0).to(tl.float32)
    c = tl.load(start + rest, kept, 0.0).to(tl.float32)
    if NORMED:
        squares = tl.sum(a * a + b * b, 0) + tl.sum(c * c, 0)
        scale = tl.rsqrt(squares / D + eps)
        a, b, c = a * scale, b * scale, c * scale
        if GAINED:
            a *= gain_of(query_gain, key_gain, first, pair, head, H, R) + offset
            b *= gain_of(query_gain, key_gain, second, pair, head, H, R) + offset
            c *= gain_of(query_gain, key_gain, rest, rest, head, H, D) + offset
    if R > 0:
        across = tl.load(cos + row * R + pair, turned, 0.0).to(tl.float32)
        up = tl.load(sin + row * R + pair, turned, 0.0).to(tl.float32)
        a, b = a * across - b * up, b * across + a * up
    queries, keys = tl.where(head < H, D, 0), tl.where(head < H, 0, D)  # which of both this head is one of
    put(query + (row * H + head) * D, a, b, c, first, second, rest, pair < tl.minimum(queries, R), rest < queries)
    put(key + (row * K + head - H) * D, a, b, c, first, second, rest, pair < tl.minimum(keys, R), rest < keys)


@triton.jit
def gain_of(query_gain, key_gain, at, index, head, H: tl.constexpr, COUNT: tl.constexpr):
    """The norm weights of one query or key head at the places `at`; 0 where `index` reaches COUNT."""
    query = tl.load(query_gain + at, index < tl.where(head < H, COUNT, 0), 0.0).to(tl.float32)
    return query + tl.load(key_gain + at, index < tl.where(head < H, 0, COUNT), 0.0).to(tl.float32)


@triton.jit
def put(out, a, b, c, first, second, rest, turned, kept):
    """Store the turned pairs (a, b) and the rest (c) of one head where the masks `turned` and `kept` allow it."""
    tl.store(out + first, a.to(out.dtype.element_ty), turned)
    tl.store(out + second, b.to(out.dtype.element_ty), turned)
    tl.store(out + rest, c.to(out.dtype.element_ty), kept)


def turn(x: Tensor, how: Turn, angles: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """x (T, (H + 2 K) D): queries, keys and values of tokens → queries (T, H, D), keys and values (T, K, D)."""
    heads, kv_heads, dim = how.heads, how.kv_heads, how.dim
    places = x.unflatten(-1, (-1, dim))
    value = places[:, heads + kv_heads :]
    if angles is None and not how.norms:
        return places[:, :heads], places[:, heads : heads + kv_heads], value
    query, key = (x.new_empty(len(x), count, dim) for count in (heads, kv_heads))
    pairs = 0 if angles is None else angles[0].shape[-1]
    norm = how.norms[0] if how.norms else Gain(None, 0.0, 0.0)
    gains = [gain.weight for gain in how.norms] or [None, None]
    _turn[len(x), heads + kv_heads](
        x, *(angles or (None, None)), *gains, query, key, x.stride(0), norm.eps, norm.offset,
        H=heads, K=kv_heads, D=dim, R=pairs, PAIRS=triton.next_power_of_2(max(pairs, 1)),
        REST=triton.next_power_of_2(max(dim - 2 * pairs, 1)), NEIGHBOURS=how.neighbours,
        NORMED=bool(how.norms), GAINED=gains[0] is not None, num_warps=1, **early(x),
    )  # fmt: skip
    return query, key, value
