"""Attention of single tokens over pages of cache, in three kernels: store what is new, attend to parts of a row's
pages, add the parts up.

Shape letters: T rows of one token, H query heads, K key heads, G = H / K heads of a group, n pages a row, P tokens a
page, D key dim, V value dim, S parts that a row's pages are split into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.card.launch import LEAST, early, enter, tile

if TYPE_CHECKING:
    from model.kernels.attention import Scores
    from model.kernels.paged import Entries, Pages

WIDEST = 256  # numbers of a head: more do not fit into a program's registers
PROGRAMS = 264  # that keep a card busy: two for each multiprocessor of an H100
STORED = 1024  # numbers that one program stores


@triton.jit
def _store(key, value, slots, keys, values, key_stride, value_stride, K_WIDTH, V_WIDTH, BLOCK: tl.constexpr,
           PAIRED: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    enter(EARLY)
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row)
    tl.store(keys + slot * K_WIDTH + at, tl.load(key + row * key_stride + at, at < K_WIDTH), at < K_WIDTH)
    if PAIRED:
        tl.store(values + slot * V_WIDTH + at, tl.load(value + row * value_stride + at, at < V_WIDTH), at < V_WIDTH)


@triton.jit
def _attend(
    query, keys, values, table, starts, firsts, lasts, slopes, sinks, sums, peaks, weights, out,
    query_stride, width, scale, softcap, K,
    GROUP: tl.constexpr, G: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    CAPPED: tl.constexpr, SLOPED: tl.constexpr, SUNK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    enter(EARLY)
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    start, first, last = tl.load(starts + row), tl.load(firsts + row), tl.load(lasts + row)
    count = (last // P - start // P + 1).to(tl.int32)
    each = tl.cdiv(count, S)
    begin, end = part * each, tl.minimum(count, part * each + each)
    if begin >= end:
        return
    g, d, v, t = tl.arange(0, G), tl.arange(0, D), tl.arange(0, V), tl.arange(0, P)
    own = head * GROUP + g
    real = g < GROUP
    q = tl.load(query + row * query_stride + own[:, None] * D + d[None, :], real[:, None], 0.0)
    total = tl.zeros((G, V), tl.float32)
    peak = tl.full((G,), float("-inf"), tl.float32)
    weight = tl.zeros((G,), tl.float32)
    for i in range(begin, end):
        page = tl.load(table + row * width + i).to(tl.int64)
        position = start + i * P + t
        seen = (position >= first) & (position <= last)
        token = (page * P + t) * K + head
        k = tl.load(keys + token[:, None] * D + d[None, :], seen[:, None], 0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if CAPPED:
            scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)
        if SLOPED:
            slope = tl.load(slopes + own, real, 0.0).to(tl.float32)
            scores -= slope[:, None] * (last - position).to(tl.float32)[None, :]
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shares = tl.exp(scores - base[:, None])
        kept = tl.exp(peak - base)
        weight = weight * kept + tl.sum(shares, 1)
        x = tl.load(values + token[:, None] * V + v[None, :], seen[:, None], 0.0)
        total = tl.dot(shares.to(x.dtype), x, total * kept[:, None], input_precision="ieee")
        peak = higher
    if S == 1:
        if SUNK:
            weight += tl.exp(tl.load(sinks + own, real, 0.0).to(tl.float32) - peak)
        total = total / weight[:, None]
        heads = row * K * GROUP + own
        tl.store(out + heads[:, None] * V + v[None, :], total.to(out.dtype.element_ty), real[:, None])
    else:
        place = ((row * K + head) * S + part) * G + g
        tl.store(sums + place[:, None] * V + v[None, :], total)
        tl.store(peaks + place, peak)
        tl.store(weights + place, weight)


@triton.jit
def _add_up(
    sums, peaks, weights, starts, lasts, sinks, out, K,
    GROUP: tl.constexpr, G: tl.constexpr, V: tl.constexpr, P: tl.constexpr, S: tl.constexpr, SUNK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    enter(EARLY)
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count = (tl.load(lasts + row) // P - tl.load(starts + row) // P + 1).to(tl.int32)
    used = tl.cdiv(count, tl.cdiv(count, S))
    g, v = tl.arange(0, G), tl.arange(0, V)
    own = head * GROUP + g
    real = g < GROUP
    total = tl.zeros((G, V), tl.float32)
    weight = tl.zeros((G,), tl.float32)
    peak = tl.full((G,), float("-inf"), tl.float32)
    if SUNK:
        peak = tl.load(sinks + own, real, 0.0).to(tl.float32)
        weight += 1.0
    for part in range(0, used):
        place = ((row * K + head) * S + part) * G + g
        theirs = tl.load(peaks + place)
        higher = tl.maximum(peak, theirs)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        kept, new = tl.exp(peak - base), tl.exp(theirs - base)
        weight = weight * kept + tl.load(weights + place) * new
        total = total * kept[:, None] + tl.load(sums + place[:, None] * V + v[None, :]) * new[:, None]
        peak = higher
    heads = row * K * GROUP + own
    tl.store(out + heads[:, None] * V + v[None, :], (total / weight[:, None]).to(out.dtype.element_ty), real[:, None])


def fits(query: Tensor, keys: Tensor, values: Tensor | None, value_dim: int, scores: Scores) -> bool:
    """Whether there is a kernel for query (T, H, D) over keys (pages, P, K, D) and values of their own, scored so."""
    if scores.bias is not None or scores.selection is not None or values is None:
        return False
    sizes = query.shape[-1], value_dim, keys.shape[1]
    return query.stride(1) == query.shape[-1] and all(LEAST <= size <= WIDEST and size & (size - 1) == 0 for size in sizes)


def lies_dense(fresh: Entries) -> bool:
    """Whether the heads of a token lie behind each other."""
    entries = (fresh.key,) if fresh.value is None else (fresh.key, fresh.value)
    return all(x.stride(2) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2]) for x in entries)


def store(fresh: Entries, keys: Tensor, values: Tensor | None) -> None:
    """Write entries (T, K, D) and (T, K, V) that lie dense into pools (pages, P, K, …)."""
    key_width = keys.shape[2] * keys.shape[3]
    value_width = 0 if values is None else values.shape[2] * values.shape[3]
    value = fresh.value
    grid = len(fresh.key), triton.cdiv(max(key_width, value_width), STORED)
    _store[grid](
        fresh.key, value, fresh.slots, keys, values, fresh.key.stride(0), 0 if value is None else value.stride(0),
        key_width, value_width, BLOCK=STORED, PAIRED=values is not None, **early(fresh.key),
    )  # fmt: skip


def decode(query: Tensor, keys: Tensor, values: Tensor, pages: Pages, scores: Scores) -> Tensor:
    """query (T, H, D), keys (pages, P, K, D), values (pages, P, K, V) → (T, H, V). `pages` may have more rows than there
    are queries."""
    rows, heads, dim = query.shape
    size, kv_heads, value_dim = keys.shape[1], keys.shape[2], values.shape[3]
    group, parts = heads // kv_heads, split(rows * kv_heads, pages.table.shape[1])
    out = query.new_empty(rows, heads, value_dim)
    sums, peaks, weights = _parts(out, parts * kv_heads * tile(group), value_dim) if parts > 1 else (None,) * 3
    form = {"GROUP": group, "G": tile(group), "V": value_dim, "P": size, "S": parts, "SUNK": scores.sinks is not None}
    _attend[rows, kv_heads, parts](
        query, keys, values, pages.table, pages.starts, pages.first, pages.last, scores.slopes, scores.sinks,
        sums, peaks, weights, out, query.stride(0), pages.table.stride(0), scores.scale, scores.softcap or 0.0, kv_heads,
        D=dim, CAPPED=scores.softcap is not None, SLOPED=scores.slopes is not None, **form, **early(query),
    )  # fmt: skip
    if parts > 1:
        _add_up[rows, kv_heads](
            sums, peaks, weights, pages.starts, pages.last, scores.sinks, out, kv_heads, **form, **early(query)
        )
    return out


def split(programs: int, width: int) -> int:
    """Into how many parts to split each row's pages, of which there are up to `width`, so that a card is busy."""
    return max(1, min(width, PROGRAMS // programs))


def _parts(out: Tensor, each: int, value_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the parts of every row: sums (T, each, V), and the highest scores and weights (T, each)."""
    rows = len(out)
    shapes = (rows, each, value_dim), (rows, each), (rows, each)
    sums, peaks, weights = (torch.empty(shape, dtype=torch.float32, device=out.device) for shape in shapes)
    return sums, peaks, weights
