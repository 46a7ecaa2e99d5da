"""Scores to weights to values: one function, a fused path where PyTorch has one, a plain path for everything else.

Shape letters: B sequences, H query heads, K key heads (K divides H), Q queries, L keys, D key dim, V value dim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Chunk, Full, Span, Window
from model.position import Bias


@dataclass(frozen=True, slots=True)
class Selection:
    """Small heads of the step's tokens that choose which keys are attended (config.Indexer): query (T, J, I), weights
    (T, J). They score the last I numbers of every key; the `top_k` best visible keys stay."""

    query: Tensor
    weights: Tensor
    top_k: int


@dataclass(frozen=True, slots=True)
class Scores:
    """How one layer scores keys, beside the product itself.

    slopes (H,): ALiBi, -slope * distance is added. sinks (H,): a logit a head that takes weight and gives no value.
    bias: what else is added, by distance. selection: which keys are attended at all.
    """

    scale: float
    softcap: float | None = None
    slopes: Tensor | None = None
    sinks: Tensor | None = None
    bias: Bias | None = None
    selection: Selection | None = None

    def at(self, tokens: Tensor | slice) -> Scores:
        """These scores for some of the step's tokens: only the selection differs from token to token."""
        chosen = self.selection
        if chosen is None:
            return self
        return replace(self, selection=replace(chosen, query=chosen.query[tokens], weights=chosen.weights[tokens]))

    def added(self, sight: Sight) -> Tensor | None:
        """What is added to the scaled products (B, H, Q, L) besides the mask; None for nothing."""
        if self.slopes is not None:
            return -self.slopes[:, None, None] * sight.distance
        return None if self.bias is None else self.bias(sight.distance)


@dataclass(frozen=True, slots=True)
class Sight:
    """What queries see: positions of queries (B, 1, Q, 1) and keys (B, 1, 1, L), and a mask (B, 1, Q, L) of 0 and -inf.

    `triangle` says that every query sees the keys up to itself, the last query all of them, which the fused path knows
    without the mask.
    """

    query: Tensor
    key: Tensor
    mask: Tensor
    triangle: bool = False

    @property
    def distance(self) -> Tensor:
        return self.query - self.key


def visible(span: Span, query: Tensor, key: Tensor) -> Tensor:
    """Whether a query position sees a key position; the arguments broadcast."""
    below = key <= query
    match span:
        case Full():
            return below
        case Window(size):
            return below & (key > query - size)
        case Chunk(size):
            return below & (key >= query // size * size)


def make_sight(span: Span, query: Tensor, key: Tensor, dtype: torch.dtype, triangle: bool = False) -> Sight:
    """query (B, Q) and key (B, L) positions → what the span lets be seen; key positions below 0 stand for nothing."""
    query, key = query[:, None, :, None], key[:, None, None, :]
    seen = visible(span, query, key) & (key >= 0)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, float("-inf"))
    return Sight(query, key, mask, triangle and isinstance(span, Full))


def make_open_sight(query: Tensor, key: Tensor, dtype: torch.dtype) -> Sight:
    """query (B, Q) and key (B, L) positions, all of which see each other: an encoder's, or a memory's."""
    query, key = query[:, None, :, None], key[:, None, None, :]
    shape = torch.broadcast_shapes(query.shape, key.shape)
    return Sight(query, key, torch.zeros(shape, dtype=dtype, device=query.device))


def select(key: Tensor, sight: Sight, chosen: Selection) -> tuple[Tensor, Sight]:
    """Keys without their last I numbers, and a sight of only the `top_k` keys of highest Σ_j weight_j relu(q_j · k).

    Of equal ones the earlier are kept, so that the choice does not depend on where keys lie.
    """
    key, small = key.split((key.shape[-1] - chosen.query.shape[-1], chosen.query.shape[-1]), dim=-1)
    if key.shape[2] <= chosen.top_k:
        return key, sight
    query, weights = (x.float().unflatten(0, (len(key), -1)) for x in (chosen.query, chosen.weights))
    products = torch.einsum("bqji,bli->bqjl", query, small.squeeze(1).float()).relu()
    worth = torch.einsum("bqjl,bqj->bql", products, weights)[:, None] + sight.mask.float()
    best = worth.argsort(dim=-1, descending=True, stable=True)[..., : chosen.top_k]
    left = torch.ones_like(worth, dtype=torch.bool).scatter(-1, best, False)
    return key, replace(sight, mask=sight.mask.masked_fill(left, float("-inf")), triangle=False)


def attend(query: Tensor, key: Tensor, value: Tensor, sight: Sight, scores: Scores) -> Tensor:
    """query (B, H, Q, D), key (B, K, L, D), value (B, K, L, V) → (B, H, Q, V)."""
    if scores.selection is not None:
        key, sight = select(key, sight, scores.selection)
    fused = scores.softcap is None and scores.sinks is None
    return _fused(query, key, value, sight, scores) if fused else plain(query, key, value, sight, scores)


def plain(query: Tensor, key: Tensor, value: Tensor, sight: Sight, scores: Scores) -> Tensor:
    """`attend` by its definition, in float32: the yardstick of every faster path."""
    kv_heads = key.shape[1]
    folded = query.float().unflatten(1, (kv_heads, -1))
    logits = torch.einsum("bkgqd,bkld->bkgql", folded, key.float()).flatten(1, 2) * scores.scale
    if scores.softcap is not None:
        logits = scores.softcap * torch.tanh(logits / scores.softcap)
    added = scores.added(sight)
    if added is not None:
        logits = logits + added.float()
    logits = logits + sight.mask.float()
    if scores.sinks is not None:
        sinks = scores.sinks.float()[:, None, None].expand(*logits.shape[:-1], 1)
        weights = torch.cat((logits, sinks), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = logits.softmax(-1)
    attended = torch.einsum("bkgql,bklv->bkgqv", weights.unflatten(1, (kv_heads, -1)), value.float())
    return attended.flatten(1, 2).to(query.dtype)


def _fused(query: Tensor, key: Tensor, value: Tensor, sight: Sight, scores: Scores) -> Tensor:
    """`attend` by PyTorch's kernel, which wants keys and values of one dimension: narrower values are padded."""
    grouped = query.shape[1] != key.shape[1]
    added = scores.added(sight)
    if sight.triangle and added is None and query.shape[2] != key.shape[2]:
        from torch.nn.attention.bias import causal_lower_right  # takes a second to import, and only GPUs come here

        corner: Tensor = causal_lower_right(query.shape[2], key.shape[2])
        return F.scaled_dot_product_attention(query, key, value, corner, scale=scores.scale, enable_gqa=grouped)
    if sight.triangle and added is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scores.scale, enable_gqa=grouped)
    mask = sight.mask if added is None else (sight.mask + added).to(query.dtype)
    if grouped and query.is_cuda and query.shape[2] > 1:  # with a mask, no kernel of a GPU shares keys among heads
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
        grouped = False
    if query.shape[2] > 1 or not grouped:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scores.scale, enable_gqa=grouped)
    # One query: the heads of a group stand as the queries of their key head, so that keys and values are read once.
    folded = query.squeeze(2).unflatten(1, (key.shape[1], -1))
    if mask.shape[1] > 1:
        mask = mask.squeeze(2).unflatten(1, (key.shape[1], -1))
    return F.scaled_dot_product_attention(folded, key, value, mask, scale=scores.scale).flatten(1, 2).unsqueeze(2)
