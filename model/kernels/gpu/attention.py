"""Attention of single tokens over pages of cache in one kernel: it stores what a token adds, attends to parts of its
pages, and whoever is done last with a token adds the parts up.

Shape letters: T rows of one token, H query heads, K key heads, G = H / K heads of a group, n pages a row, P tokens a
page, D key dim, V value dim, S parts that a row's pages are split into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.gpu.launch import LEAST, early, let_in, tile, wait

if TYPE_CHECKING:
    from model.kernels.attention import Scores
    from model.kernels.paged import Entries, Pages, Scratch

WIDEST = 512  # bytes of a head: keys and values of a page on their way twice must fit into a program's memory
PROGRAMS = 264  # that keep a GPU busy: two for each multiprocessor of an H100
FEW = tl.constexpr(16)  # tokens a step adds to a sequence, looked at at once: more than one where some are guessed
WIDEST_GROUP = 64  # query heads of a key head
STORED = 1024  # numbers that one program stores


@triton.jit
def _store(key, value, slots, keys, values, key_stride, value_stride, K_WIDTH, V_WIDTH, BLOCK: tl.constexpr,
           PAIRED: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    let_in(EARLY)
    wait(EARLY)
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row)
    tl.store(keys + slot * K_WIDTH + at, tl.load(key + row * key_stride + at, at < K_WIDTH), at < K_WIDTH)
    if PAIRED:
        tl.store(values + slot * V_WIDTH + at, tl.load(value + row * value_stride + at, at < V_WIDTH), at < V_WIDTH)


@triton.jit
def score(q, k, scale, softcap, slope, distance, seen, CAPPED: tl.constexpr, SLOPED: tl.constexpr):
    """q (G, D), k (n, D), whether each key is seen (n,) and its distance (n,) → scores (G, n)."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if CAPPED:
        scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)
    if SLOPED:
        scores -= slope[:, None] * distance.to(tl.float32)[None, :]
    return tl.where(seen[None, :], scores, float("-inf"))


@triton.jit
def weigh(scores, x, total, peak, weight):
    """Take values x (n, V) of scores (G, n) into the weighted total (G, V), the highest score and the weight (G,)."""
    higher = tl.maximum(peak, tl.max(scores, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    shares, kept = tl.exp(scores - base[:, None]), tl.exp(peak - base)
    total = tl.dot(shares.to(x.dtype), x, total * kept[:, None], input_precision="ieee")
    return total, higher, weight * kept + tl.sum(shares, 1)


@triton.jit
def copy(source, target, COUNT: tl.constexpr):
    """Copy COUNT contiguous numbers from `source` to `target`."""
    i = tl.arange(0, COUNT)
    tl.store(target + i, tl.load(source + i))


@triton.jit
def leave_part(sums, peaks, weights, part, total, peak, weight, G: tl.constexpr, V: tl.constexpr):
    """Store what one program found where `add_up` reads it, seen by all before anything that follows."""
    g, v = tl.arange(0, G), tl.arange(0, V)
    place = part * G + g
    tl.store(sums + place[:, None] * V + v[None, :], total)
    tl.store(peaks + place, peak)
    tl.store(weights + place, weight)
    tl.debug_barrier()


@triton.jit
def add_up(sums, peaks, weights, first, count, G: tl.constexpr, V: tl.constexpr):
    """`count` parts from `first` on → their weighted total (G, V), highest score and weight (both (G,))."""
    g, v = tl.arange(0, G), tl.arange(0, V)
    total, weight = tl.zeros((G, V), tl.float32), tl.zeros((G,), tl.float32)
    peak = tl.full((G,), float("-inf"), tl.float32)
    for part in range(0, count):
        place = (first + part) * G + g
        theirs = tl.load(peaks + place, cache_modifier=".cg")  # other programs wrote it
        higher = tl.maximum(peak, theirs)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        kept, more = tl.exp(peak - base), tl.exp(theirs - base)
        weight = weight * kept + tl.load(weights + place, cache_modifier=".cg") * more
        there = tl.load(sums + place[:, None] * V + v[None, :], cache_modifier=".cg")
        total = total * kept[:, None] + there * more[:, None]
        peak = higher
    return total, peak, weight


@triton.jit(do_not_specialize=["adds"])
def _attend(
    query, key, value, slots, keys, values, table, starts, firsts, lasts, news, slopes, sinks,
    sums, peaks, weights, arrived, out,
    query_stride, key_stride, value_stride, width, scale, softcap, K, adds,
    GROUP: tl.constexpr, G: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    CAPPED: tl.constexpr, SLOPED: tl.constexpr, SUNK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_in(EARLY)
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    start, first, last = tl.load(starts + row), tl.load(firsts + row), tl.load(lasts + row)
    count = (last // P - start // P + 1).to(tl.int32)
    each = tl.cdiv(count, S)
    begin, end = part * each, tl.minimum(count, part * each + each)
    if begin >= end:
        return
    wait(EARLY)
    g, d, v, t = tl.arange(0, G), tl.arange(0, D), tl.arange(0, V), tl.arange(0, P)
    own, real, new = head * GROUP + g, g < GROUP, last + 1
    if adds:
        new = tl.load(news + row)
        if end == count:
            slot = tl.load(slots + row) * K + head
            copy(key + row * key_stride + head * D, keys + slot * D, D)
            copy(value + row * value_stride + head * V, values + slot * V, V)
    q = tl.load(query + row * query_stride + own[:, None] * D + d[None, :], real[:, None], 0.0)
    total, weight = tl.zeros((G, V), tl.float32), tl.zeros((G,), tl.float32)
    peak = tl.full((G,), float("-inf"), tl.float32)
    slope = tl.load(slopes + own, real, 0.0).to(tl.float32) if SLOPED else weight
    for i in range(begin, end):
        page = tl.load(table + row * width + i).to(tl.int64)
        position = start + i * P + t
        seen = (position >= first) & (position < new)
        token = (page * P + t) * K + head
        k = tl.load(keys + token[:, None] * D + d[None, :], seen[:, None], 0.0)
        x = tl.load(values + token[:, None] * V + v[None, :], seen[:, None], 0.0)
        scores = score(q, k, scale, softcap, slope, last - position, seen, CAPPED, SLOPED)
        total, peak, weight = weigh(scores, x, total, peak, weight)
    if end == count:  # what the step itself adds is not where it will be before all have looked
        f = tl.arange(0, FEW)
        for begin_new in range(tl.maximum(new, first), last + 1, FEW):
            position = begin_new + f
            seen = position <= last
            source = row - (last - position)
            k = tl.load(key + source[:, None] * key_stride + head * D + d[None, :], seen[:, None], 0.0)
            x = tl.load(value + source[:, None] * value_stride + head * V + v[None, :], seen[:, None], 0.0)
            scores = score(q, k, scale, softcap, slope, last - position, seen, CAPPED, SLOPED)
            total, peak, weight = weigh(scores, x, total, peak, weight)
    if S > 1:
        group, used = row * K + head, tl.cdiv(count, each)
        leave_part(sums, peaks, weights, group * S + part, total, peak, weight, G, V)
        if tl.atomic_add(arrived + group, 1) != used - 1:
            return
        tl.store(arrived + group, 0)
        tl.debug_barrier()
        total, peak, weight = add_up(sums, peaks, weights, group * S, used, G, V)
    if SUNK:
        weight += tl.exp(tl.load(sinks + own, real, 0.0).to(tl.float32) - peak)
    heads = row * K * GROUP + own
    total = total / tl.where(weight > 0, weight, 1.0)[:, None]  # a row that sees nothing gets nothing
    tl.store(out + heads[:, None] * V + v[None, :], total.to(out.dtype.element_ty), real[:, None])


def fits(query: Tensor, keys: Tensor, values: Tensor | None, value_dim: int, scores: Scores) -> bool:
    """Whether there is a kernel for query (T, H, D) over keys (pages, P, K, D) and values of their own, scored so."""
    if scores.bias is not None or scores.selection is not None or values is None:
        return False
    sizes, group = (query.shape[-1], value_dim, keys.shape[1]), query.shape[1] // keys.shape[2]
    narrow = max(sizes[:2]) * query.itemsize <= WIDEST
    fit = narrow and group <= WIDEST_GROUP and query.stride(1) == query.shape[-1]
    return fit and all(size >= LEAST and size & (size - 1) == 0 for size in sizes)


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


def decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Pages,
    scores: Scores,
    scratch: Scratch,
    fresh: Entries | None = None,
) -> Tensor:
    """query (T, H, D), keys (pages, P, K, D), values (pages, P, K, V) → (T, H, V). `pages` may have more rows than
    there are queries. fresh: what the same rows add to the pools, and see of each other where pages say so.

    One kernel serves steps with and without `fresh`, and all numbers of rows that pages are filled up to alike.
    """
    rows, heads, dim = query.shape
    size, kv_heads, value_dim = keys.shape[1], keys.shape[2], values.shape[3]
    group, parts = heads // kv_heads, split(len(pages.table) * kv_heads, pages.table.shape[1])
    out = query.new_empty(rows, heads, value_dim)
    shared: tuple[Tensor | None, ...] = (None,) * 4
    if parts > 1:
        sums = _parts(out, parts * kv_heads * tile(group), value_dim)
        shared = *sums, scratch.counters(PROGRAMS, query.device)
    key, value, slots = (keys, values, pages.starts) if fresh is None else (fresh.key, fresh.value, fresh.slots)
    assert value is not None
    news = pages.starts if pages.new is None else pages.new  # nobody looks at what stands in where there is nothing new
    _attend[rows, kv_heads, parts](
        query, key, value, slots, keys, values, pages.table, pages.starts, pages.first, pages.last, news,
        scores.slopes, scores.sinks, *shared, out,
        query.stride(0), key.stride(0), value.stride(0), pages.table.stride(0), scores.scale, scores.softcap or 0.0,
        kv_heads, int(fresh is not None),
        GROUP=group, G=tile(group), D=dim, V=value_dim, P=size, S=parts, CAPPED=scores.softcap is not None,
        SLOPED=scores.slopes is not None, SUNK=scores.sinks is not None, **early(query),
    )  # fmt: skip
    return out


def split(programs: int, width: int) -> int:
    """How many parts to split each row's pages into, of which there are up to `width`, so that a GPU is busy."""
    return max(1, min(width, PROGRAMS // programs))


def _parts(out: Tensor, each: int, value_dim: int) -> tuple[Tensor, ...]:
    """Memory for the parts of every row: sums (T, each, V), the highest scores and weights (T, each)."""
    rows = len(out)
    shapes = (rows, each, value_dim), (rows, each), (rows, each)
    return tuple(torch.empty(shape, dtype=torch.float32, device=out.device) for shape in shapes)
