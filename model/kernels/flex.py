"""Attention of one query a sequence over pages of cache on a CUDA GPU: PyTorch's FlexAttention sees a whole pool as
one long sequence, and a block mask tells it which pages each row reads; nothing is copied together.

The page is the block of the mask. Shape letters: R rows, H query heads, K key heads, n pages a row, N pages of the
pool, P tokens a page, D key dim, V value dim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from model.kernels.attention import Scores
    from model.kernels.paged import Pages

LEAST = 16  # tensor cores multiply tiles of 16: smaller heads and pages have no kernel
QUERIES = 128  # rows of a block of the mask; a decoding row has one query in it
RECOMPILATIONS = 512  # one kernel for each number of rows and each kind of layer; PyTorch gives up after 8


@dataclass(frozen=True, slots=True)
class Blocks:
    """Pages as FlexAttention is told of them: counts (R,) and indices (R, n) of the pages a row reads, where (R, N) the
    position of the first token of each page of the pool, -1 where the row does not see the page; all int32."""

    counts: Tensor
    indices: Tensor
    where: Tensor


def blocks(pages: Pages, total: int) -> Blocks:
    """What a row sees among the `total` pages of a pool. A row whose `last` is -1 sees none."""
    columns = torch.arange(pages.table.shape[1], device=pages.table.device)
    counts = pages.last // pages.size - pages.starts // pages.size + 1
    table = torch.where(columns < counts[:, None], pages.table, 0)
    where = torch.full((len(table), total), -1, dtype=torch.int32, device=table.device)
    where.scatter_(1, table, (pages.starts[:, None] + columns * pages.size).int())
    where[:, 0] = -1  # page 0 stands for no page: what the columns behind a row's last page wrote there
    return Blocks(counts.int(), table.int(), where)


def has_kernel(dim: int, value_dim: int, size: int) -> bool:
    """Whether there is a kernel for heads of these dimensions and pages of this size."""
    return min(dim, value_dim, size) >= LEAST and size & (size - 1) == 0


def fits(query: Tensor, keys: Tensor, value_dim: int, scores: Scores) -> bool:
    """Whether there is a kernel for query (R, H, D) over keys (N, P, K, D), scored so."""
    plain = scores.bias is None and scores.selection is None
    return plain and has_kernel(query.shape[-1], value_dim, keys.shape[1])


def decode(query: Tensor, keys: Tensor, values: Tensor | None, value_dim: int, pages: Pages, scores: Scores) -> Tensor:
    """query (R, H, D), keys (N, P, K, D), values (N, P, K, V) or None where they are the keys' first V numbers →
    (R, H, V). `pages` may have more rows than there are queries: the rest is padding and sees nothing."""
    rows, heads, kv_heads = len(query), query.shape[1], keys.shape[2]
    seen = pages.blocks(len(keys))
    query, slopes = _whole_groups(query, len(pages.table), kv_heads, scores.slopes)
    form = _form(scores.scale, scores.softcap, scores.sinks is not None)
    run = _compiled(form) if query.is_cuda else form
    values = keys[..., :value_dim] if values is None else values
    key, value = (pool.flatten(0, 1).transpose(0, 1)[None] for pool in (keys, values))
    found = run(query[:, :, None], key, value, seen, pages.first, pages.last, slopes)
    out, weight = (x.unflatten(1, (kv_heads, -1))[:rows, :, : heads // kv_heads].flatten(1, 2) for x in found)
    if scores.sinks is not None:
        out = out * torch.sigmoid(weight - scores.sinks.float())[..., None].to(out.dtype)
    attended: Tensor = out
    return attended


def _whole_groups(query: Tensor, rows: int, kv_heads: int, slopes: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Pad queries to `rows` rows, and queries and slopes to a power of two of heads for every key head."""
    group = query.shape[1] // kv_heads
    heads = 1 << (group - 1).bit_length()
    more = heads - group, rows - len(query)
    if any(more):
        query = F.pad(query.unflatten(1, (kv_heads, group)), (0, 0, 0, more[0], 0, 0, 0, more[1])).flatten(1, 2)
    if slopes is not None and more[0]:
        slopes = F.pad(slopes.view(kv_heads, group), (0, more[0])).flatten()
    return query, slopes


Form = Callable[[Tensor, Tensor, Tensor, Blocks, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


@functools.cache
def _form(scale: float, softcap: float | None, weighed: bool) -> Form:
    """FlexAttention for one kind of scores; also gives the logarithm of what softmax divides by, where it is asked for.

    Constants are bound here and not passed, because the compiler writes them into the kernel.
    """
    from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention  # a second, only for GPUs

    def run(
        query: Tensor, key: Tensor, value: Tensor, seen: Blocks, first: Tensor, last: Tensor, slopes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        where = seen.where
        size = key.shape[2] // where.shape[1]

        def visible(row: Tensor, head: Tensor, token: Tensor, slot: Tensor) -> Tensor:
            begin = where[row, slot // size]
            position = begin + slot % size
            return (begin >= 0) & (position >= first[row]) & (position <= last[row])

        def score(x: Tensor, row: Tensor, head: Tensor, token: Tensor, slot: Tensor) -> Tensor:
            if softcap is not None:
                x = softcap * torch.tanh(x / softcap)
            if slopes is None:
                return x
            return x - slopes[head] * (last[row] - where[row, slot // size] - slot % size)

        mask = BlockMask.from_kv_blocks(
            seen.counts[:, None, None],
            seen.indices[:, None, None],
            BLOCK_SIZE=(QUERIES, size),
            mask_mod=visible,
            seq_lengths=(1, key.shape[2]),
            compute_q_blocks=False,
        )
        out, more = flex_attention(
            query,
            key,
            value,
            score_mod=score,
            block_mask=mask,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
            return_aux=AuxRequest(lse=weighed),
        )
        return out.squeeze(2), out if more.lse is None else more.lse.squeeze(2)

    return run


@functools.cache
def _compiled(form: Form) -> Form:
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS
    return torch.compile(form, dynamic=False, fullgraph=True)
