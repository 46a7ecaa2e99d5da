"""gpt-oss: sinks, windows in every other layer, biases everywhere, clamped experts, in bf16 or MXFP4."""

from __future__ import annotations

from model.checkpoint.experts import alternating, quantised
from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import blocks, decoder, every, experts, grouped, head, kinds, rms, window
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import Layout, MixtureNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, ClampedGate, FeedForward, MoE, Router

NAMES = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
FLOATS = Layout(mixture=MixtureNames(alternating(*NAMES), router="mlp.router"))
MXFP4 = Layout(mixture=MixtureNames(quantised(*NAMES), router="mlp.router"))


def gpt_oss(s: Settings) -> Architecture:
    s.only("hidden_act", "silu")
    bias, norm = s.flag("attention_bias", default=True), rms(s, 1e-5)
    heads, turn = grouped(s, bias=bias, dim=64), rotary(s, theta=150000.0)
    size, of_layer = s.optional_whole("sliding_window", absent=128), kinds(s, every(2))
    moe = _experts(s)

    def branches(i: int) -> tuple[Attention, MoE]:
        span = window(size if of_layer[i] == "sliding_attention" else None)
        return Attention(heads, turn, span, sinks=True, out_bias=bias), moe

    return decoder(s, blocks(s, branches, norm), norm, head(s, tied=False))


def _experts(s: Settings) -> MoE:
    gate = ClampedGate(s.positive("swiglu_limit", default=7.0), s.positive("swiglu_alpha", default=1.702))
    expert = FeedForward(s.size("intermediate_size"), gate, bias=True)
    count = experts(s, "num_local_experts", "num_experts")
    return MoE(count, s.size("num_experts_per_tok", "experts_per_token", default=4), expert, Router(bias=True))


def layout(s: Settings) -> Layout:
    return MXFP4 if s.has("quantization_config") else FLOATS


FAMILIES = {"gpt_oss": Family(gpt_oss, layout, quantised=frozenset({"mxfp4"}))}
