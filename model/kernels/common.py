"""The shape that most blocks have, and that faster forms of whole blocks are built for: pre-norm, attention and then a
feed-forward or a mixture."""

from __future__ import annotations

from model import config
from model.attention import GroupedAttention, LatentAttention
from model.feedforward import FeedForward
from model.moe import MoE
from model.norm import Norm
from model.stack import Block


def has_shape(block: Block) -> bool:
    """Whether a block is something and then a feed-forward or a mixture, in series, each behind a norm, and has nothing
    that few architectures have. What the first branch is, is asked apart."""
    if type(block) is not Block:  # another form already
        return False
    value = block.value
    plain = value.placement == "pre" and not value.parallel and not value.shared_norm and not value.gated
    if not plain or value.residual_scale != 1 or len(block.branches) != 2:
        return False
    normed = all(isinstance(norm, Norm) for norm in block.norms_before)
    return normed and isinstance(block.branches[1], FeedForward | MoE)


def is_plain_grouped(attention: GroupedAttention) -> bool:
    """Whether grouped-query attention has nothing that few architectures have."""
    heads, norm = attention.heads, attention.heads.qk_norm
    plain_heads = heads.clip is None and not heads.shared_value and heads.value_norm is None
    plain_norm = norm is None or (norm.over == "head" and not norm.after_rotation)
    return plain_heads and plain_norm and _is_plain(attention.value)


def is_plain_latent(attention: LatentAttention) -> bool:
    """Whether latent attention has nothing that few architectures have."""
    return attention.indexer is None and _is_plain(attention.value)


def _is_plain(value: config.Attention) -> bool:
    return value.gate is None and value.temperature is None and not isinstance(value.position, config.Buckets)


def head_norms(attention: GroupedAttention) -> list[Norm]:
    """The norms of single query and key heads, none or two."""
    norms = (attention.query_norm, attention.key_norm)
    return [norm for norm in norms if isinstance(norm, Norm)]
