"""Experts kept one by one under mlp.experts, with or without shared experts, dense layers among the sparse ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from model.checkpoint.experts import apart
from model.checkpoint.families.family import Family
from model.checkpoint.families.llama import switched_windows
from model.checkpoint.families.parts import (
    activation,
    blocks,
    decoder,
    experts,
    feed_forward,
    grouped,
    head,
    layers,
    rms,
    window,
)
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import FeedForwardNames, GroupedNames, Layout, MixtureNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, FeedForward, MoE, QKNorm, Rotary, Router

APART = apart("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj", "mlp.experts.{e}.down_proj")


def shared_names(prefix: str) -> FeedForwardNames:
    return FeedForwardNames((f"mlp.{prefix}.gate_proj", f"mlp.{prefix}.up_proj"), f"mlp.{prefix}.down_proj")


QWEN = Layout(mixture=MixtureNames(APART, shared=shared_names("shared_expert")))
ERNIE = Layout(
    mixture=MixtureNames(
        APART,
        correction="mlp.moe_statics.e_score_correction_bias",
        flat_correction=False,
        shared=shared_names("shared_experts"),
    )
)
HUNYUAN = Layout(
    attention=GroupedNames(query_norm="self_attn.query_layernorm", key_norm="self_attn.key_layernorm"),
    mixture=MixtureNames(APART, router="mlp.gate.wg", shared=shared_names("shared_mlp")),
)


# ---------------------------------------------------------------------------------------------- Qwen


def qwen2_moe(s: Settings) -> Architecture:
    """One shared expert behind a gate of its own."""
    spans = switched_windows(s, lambda i, first: i % 2 == 0 and i < first)
    turn, heads = rotary(s), grouped(s, bias=s.flag("qkv_bias", default=True))
    shared = FeedForward(s.size("shared_expert_intermediate_size"), activation(s))
    feeds = qwen_feeds(s, replace(qwen_experts(s), shared=shared, shared_gate=True))
    norm = rms(s, 1e-6)
    stack = blocks(s, lambda i: (Attention(heads, turn, spans[i]), feeds(i)), norm)
    return decoder(s, stack, norm, head(s, tied=False))


def qwen3_moe(s: Settings) -> Architecture:
    bias, norm = s.flag("attention_bias", default=False), rms(s, 1e-6)
    size = s.optional_whole("sliding_window") if s.flag("use_sliding_window", default=False) else None
    heads = grouped(s, bias=bias, qk_norm=QKNorm(norm))
    attention = Attention(heads, rotary(s), window(size), out_bias=bias)
    feeds = qwen_feeds(s, qwen_experts(s))
    return decoder(s, blocks(s, lambda i: (attention, feeds(i)), norm), norm, head(s, tied=False))


def qwen_experts(s: Settings, normalise: bool = False) -> MoE:
    """The routed experts; normalise: the default of `norm_topk_prob`."""
    expert = FeedForward(s.size("moe_intermediate_size"), activation(s))
    router = Router(normalise=s.flag("norm_topk_prob", default=normalise))
    return MoE(experts(s, "num_experts", "num_local_experts"), s.size("num_experts_per_tok"), expert, router)


def qwen_feeds(s: Settings, moe: MoE) -> Callable[[int], FeedForward | MoE]:
    """Experts in every `decoder_sparse_step`-th layer but those in `mlp_only_layers`."""
    dense, step = feed_forward(s), max(s.whole("decoder_sparse_step", default=1), 1)
    only_dense = s.indices("mlp_only_layers") or frozenset()
    return lambda i: dense if i in only_dense or (i + 1) % step else moe


# ---------------------------------------------------------------------------------------------- ERNIE, Hunyuan


def ernie4_5_moe(s: Settings) -> Architecture:
    """Experts in a range of layers; a softmax router whose bias selects but does not weigh."""
    bias, norm = s.flag("use_bias", default=False), rms(s, 1e-5)
    attention = Attention(grouped(s, bias=bias), rotary(s, theta=5e5, layout="interleaved"), out_bias=bias)
    hidden, kind = s.size("moe_intermediate_size"), activation(s)
    count = s.whole("moe_num_shared_experts", default=2)
    shared = FeedForward(hidden * count, kind, bias=bias) if count else None
    router, chosen = Router(correction=True), s.size("moe_k", "num_experts_per_tok")
    moe = MoE(experts(s, "moe_num_experts", "num_experts"), chosen, FeedForward(hidden, kind), router, shared)
    sparse, dense = _ernie_sparse(s), feed_forward(s, bias)
    stack = blocks(s, lambda i: (attention, moe if sparse(i) else dense), norm)
    return decoder(s, stack, norm, head(s, tied=True, bias=bias))


def _ernie_sparse(s: Settings) -> Callable[[int], bool]:
    first, step = s.whole("moe_layer_start_index", default=1), max(s.whole("moe_layer_interval", default=1), 1)
    said = s.real("moe_layer_end_index", default=-1.0)
    last = layers(s) - 1 if said == -1 else said
    return lambda i: (i + 1) % step == 0 and first <= i <= last


def hunyuan_v1_moe(s: Settings) -> Architecture:
    """Queries and keys are normed after their rotation; a shared expert as large as the others."""
    bias, norm = s.flag("attention_bias", default=False), rms(s, 1e-5)
    heads = grouped(s, bias=bias, qk_norm=QKNorm(norm, after_rotation=True))
    attention = Attention(heads, _stretched(s, heads.dim), out_bias=bias)
    feed = feed_forward(s)
    chosen = s.per_layer("moe_topk", "num_experts_per_tok", count=layers(s))
    counts = s.per_layer("num_experts", "num_local_experts", count=layers(s))

    def branches(i: int) -> tuple[Attention, MoE]:
        return attention, MoE(counts[i], chosen[i], feed, shared=feed)

    return decoder(s, blocks(s, branches, norm), norm, head(s, tied=False))


def _stretched(s: Settings, dim: int) -> Rotary:
    """A `dynamic` scaling with an `alpha` is a larger base once and for all."""
    turn = rotary(s)
    rope = s.table("rope_scaling") if s.has("rope_scaling") else s.table("rope_parameters")
    if not rope.has("alpha") or dim <= 2:
        return turn
    return replace(turn, theta=turn.theta * rope.real("alpha") ** (dim / (dim - 2)))


FAMILIES = {
    "qwen2_moe": Family(qwen2_moe, lambda s: QWEN),
    "qwen3_moe": Family(qwen3_moe, lambda s: QWEN, written="Qwen3MoeForCausalLM"),
    "ernie4_5_moe": Family(ernie4_5_moe, lambda s: ERNIE, ignored=lambda s: (r"(.*\.)?mtp.*",)),
    "hunyuan_v1_moe": Family(hunyuan_v1_moe, lambda s: HUNYUAN),
}
