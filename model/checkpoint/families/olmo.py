"""OLMo: norms without weights at first, then norms on the outputs of the branches."""

from __future__ import annotations

from model.checkpoint.experts import apart
from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import (
    blocks,
    decoder,
    every,
    experts,
    feed_forward,
    grouped,
    head,
    kinds,
    rms,
    window,
)
from model.checkpoint.families.rotation import rotary, rotary_by_kind
from model.checkpoint.layout import Layout, MixtureNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, MoE, Norm, QKNorm, Router

OUTPUT = Layout(before=(), after=("post_attention_layernorm", "post_feedforward_layernorm"))
MIXED = Layout(
    mixture=MixtureNames(apart("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj", "mlp.experts.{e}.down_proj"))
)


def olmo(s: Settings) -> Architecture:
    bias, norm = s.flag("attention_bias", default=False), Norm("layer", 1e-5, weight=False)
    attention = Attention(grouped(s, bias=bias, clip=s.optional_positive("clip_qkv")), rotary(s), out_bias=bias)
    branches = (attention, feed_forward(s))
    return decoder(s, blocks(s, lambda i: branches, norm), norm, head(s, tied=False))


def olmo2(s: Settings) -> Architecture:
    bias, norm = s.flag("attention_bias", default=False), rms(s, 1e-5)
    attention = Attention(grouped(s, bias=bias, qk_norm=QKNorm(norm, "width")), rotary(s), out_bias=bias)
    branches = (attention, feed_forward(s))
    return decoder(s, blocks(s, lambda i: branches, norm, "output"), norm, head(s, tied=False))


def olmo3(s: Settings) -> Architecture:
    """Windows with every fourth layer full; only the full layers' rotation is scaled."""
    bias, norm, feed = s.flag("attention_bias", default=False), rms(s, 1e-5), feed_forward(s)
    heads = grouped(s, bias=bias, qk_norm=QKNorm(norm, "width"))
    size = s.whole("sliding_window", default=4096)
    attentions = {
        "full_attention": Attention(heads, rotary_by_kind(s, "full_attention", 5e5), out_bias=bias),
        "sliding_attention": Attention(heads, rotary_by_kind(s, "sliding_attention", 5e5), window(size), out_bias=bias),
    }
    of_layer = kinds(s, every(4), attentions)
    stack = blocks(s, lambda i: (attentions[of_layer[i]], feed), norm, "output")
    return decoder(s, stack, norm, head(s, tied=False))


def olmoe(s: Settings) -> Architecture:
    s.only("clip_qkv")  # it would act after the norms of queries and keys
    bias, norm = s.flag("attention_bias", default=False), rms(s, 1e-5)
    attention = Attention(grouped(s, bias=bias, qk_norm=QKNorm(norm, "width")), rotary(s), out_bias=bias)
    router = Router(normalise=s.flag("norm_topk_prob", default=False))
    moe = MoE(experts(s, "num_experts", "num_local_experts"), s.size("num_experts_per_tok"), feed_forward(s), router)
    return decoder(s, blocks(s, lambda i: (attention, moe), norm), norm, head(s, tied=False))


FAMILIES = {
    "olmo": Family(olmo, lambda s: Layout()),
    "olmo2": Family(olmo2, lambda s: OUTPUT),
    "olmo3": Family(olmo3, lambda s: OUTPUT),
    "olmoe": Family(olmoe, lambda s: MIXED),
}
