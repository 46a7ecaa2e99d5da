"""Granite: four multipliers, of the embedding, the scores, the residual branches, and one that divides the logits."""

from __future__ import annotations

from model.checkpoint.experts import stacked
from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import blocks, decoder, experts, feed_forward, grouped, head, rms
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import Layout, MixtureNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, Embedding, FeedForward, MoE

MIXED = Layout(
    mixture=MixtureNames(
        stacked("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
        router="block_sparse_moe.router.layer",
    )
)


def granite(s: Settings) -> Architecture:
    return _multiplied(s, feed_forward(s, s.flag("mlp_bias", default=False)))


def granitemoe(s: Settings) -> Architecture:
    count = experts(s, "num_local_experts", "num_experts")
    return _multiplied(s, MoE(count, s.size("num_experts_per_tok"), feed_forward(s)))


def _multiplied(s: Settings, feed: FeedForward | MoE) -> Architecture:
    bias, norm = s.flag("attention_bias", default=False), rms(s, 1e-6)
    scale = s.positive("attention_multiplier", default=1.0)
    attention = Attention(grouped(s, bias=bias), rotary(s), scale=scale, out_bias=bias)
    residual = s.positive("residual_multiplier", default=1.0)
    stack = blocks(s, lambda i: (attention, feed), norm, residual_scale=residual)
    embedding = Embedding(scale=s.positive("embedding_multiplier", default=1.0))
    divisor = s.positive("logits_scaling", default=1.0)
    if divisor == 0:
        raise s.refusal("logits_scaling", "the logits cannot be divided by it")
    return decoder(s, stack, norm, head(s, tied=False, scale=1 / divisor), embedding)


FAMILIES = {
    "granite": Family(granite, lambda s: Layout()),
    "granitemoe": Family(granitemoe, lambda s: MIXED),
}
