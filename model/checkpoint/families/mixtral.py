"""Decoders whose every layer has experts, kept under the names of Mixtral, and DBRX."""

from __future__ import annotations

from model.checkpoint.experts import apart, flattened
from model.checkpoint.families.family import Family
from model.checkpoint.families.neox import fraction_of
from model.checkpoint.families.parts import (
    activation,
    blocks,
    decoder,
    experts,
    feed_forward,
    grouped,
    head,
    rms,
    window,
)
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import GroupedNames, Layout, MixtureNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, FeedForward, MoE, Norm, QKNorm, Router

MIXTRAL = Layout(
    mixture=MixtureNames(
        apart(*(f"block_sparse_moe.experts.{{e}}.{name}" for name in ("w1", "w3", "w2"))),
        router="block_sparse_moe.gate",
        correction="block_sparse_moe.e_score_correction_bias",
    )
)
DBRX = Layout(
    embedding="transformer.wte",
    block="transformer.blocks.{i}",
    norm="transformer.norm_f",
    before=("norm_attn_norm.norm_1", "norm_attn_norm.norm_2"),
    attention=GroupedNames(qkv=("norm_attn_norm.attn.Wqkv",), out="norm_attn_norm.attn.out_proj"),
    mixture=MixtureNames(
        flattened("ffn.experts.mlp.w1", "ffn.experts.mlp.v1", "ffn.experts.mlp.w2"), router="ffn.router.layer"
    ),
)


def mixtral(s: Settings) -> Architecture:
    attention = Attention(grouped(s), rotary(s, theta=1e6), window(s.optional_whole("sliding_window")))
    return _sparse(s, attention, rms(s, 1e-5), Router())


def minimax_m2(s: Settings) -> Architecture:
    """Norms of queries and keys over the whole width; a sigmoid router whose bias selects but does not weigh."""
    norm = rms(s, 1e-6)
    heads = grouped(s, qk_norm=QKNorm(norm, "width"), dim=128)
    part = fraction_of(s.size("rotary_dim"), heads.dim) if s.has("rotary_dim") else 1.0
    turn = rotary(s, theta=5e6, fraction=part)
    return _sparse(s, Attention(heads, turn), norm, Router("sigmoid", correction=True))


def _sparse(s: Settings, attention: Attention, norm: Norm, router: Router) -> Architecture:
    count = experts(s, "num_local_experts", "num_experts")
    moe = MoE(count, s.size("num_experts_per_tok"), feed_forward(s), router)
    return decoder(s, blocks(s, lambda i: (attention, moe), norm), norm, head(s, tied=False))


def dbrx(s: Settings) -> Architecture:
    inner, ffn, norm = s.table("attn_config"), s.table("ffn_config"), Norm("layer", 1e-5)
    heads = grouped(s, kv=inner.size("kv_n_heads", default=1), clip=inner.optional_positive("clip_qkv"))
    turn = rotary(s, theta=inner.positive("rope_theta", default=10000.0))
    ffn.only("moe_normalize_expert_weights", 1)  # the power of the norm they are divided by
    router = Router(normalise=ffn.optional_positive("moe_normalize_expert_weights", absent=1.0) is not None)
    hidden, kind = ffn.size("ffn_hidden_size"), activation(ffn.table("ffn_act_fn"), "name")
    count = experts(ffn, "moe_num_experts")
    moe = MoE(count, ffn.size("moe_top_k"), FeedForward(hidden, kind), router)
    stack = blocks(s, lambda i: (Attention(heads, turn), moe), norm)
    return decoder(s, stack, norm, head(s, tied=False))


FAMILIES = {
    "mixtral": Family(mixtral, lambda s: MIXTRAL, written="MixtralForCausalLM"),
    "minimax_m2": Family(minimax_m2, lambda s: MIXTRAL),
    "dbrx": Family(dbrx, lambda s: DBRX, root="transformer."),
}
