"""The shape that most blocks have, and that faster forms of whole blocks are built for: pre-norm, grouped-query
attention and then a feed-forward or a mixture."""

from __future__ import annotations

from model import config
from model.attention import GroupedAttention
from model.feedforward import FeedForward
from model.moe import MoE
from model.norm import Norm
from model.stack import Block


def has_shape(block: Block) -> bool:
    """Whether a block is attention and then a feed-forward or a mixture, in series, each behind a norm, and has nothing
    that few architectures have."""
    if type(block) is not Block:  # another form already
        return False
    value = block.value
    plain = value.placement == "pre" and not value.parallel and not value.shared_norm and not value.gated
    if not plain or value.residual_scale != 1 or len(block.branches) != 2:
        return False
    attention, branch = block.branches
    normed = all(isinstance(norm, Norm) for norm in block.norms_before)
    return normed and isinstance(branch, FeedForward | MoE) and _is_common(attention)


def _is_common(attention: object) -> bool:
    if not isinstance(attention, GroupedAttention):
        return False
    value, heads = attention.value, attention.heads
    plain_heads = heads.clip is None and not heads.shared_value and heads.value_norm is None
    norm = heads.qk_norm
    plain_norm = norm is None or (norm.over == "head" and not norm.after_rotation)
    plain_output = value.gate is None and value.temperature is None and not isinstance(value.position, config.Buckets)
    return plain_heads and plain_norm and plain_output


def head_norms(attention: GroupedAttention) -> list[Norm]:
    """The norms of single query and key heads, none or two."""
    norms = (attention.query_norm, attention.key_norm)
    return [norm for norm in norms if isinstance(norm, Norm)]
