"""Layer norms and a rotation of a part of each head, attention and feed-forward often side by side."""

from __future__ import annotations

import math
from dataclasses import replace

from model.checkpoint.families.family import Family
from model.checkpoint.families.gpt import four_times
from model.checkpoint.families.parts import activation, blocks, decoder, grouped, head, layer_norm, query_heads, window
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import FeedForwardNames, GroupedNames, Layout
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, FeedForward, QKNorm, Rotary

NEOX = Layout(
    embedding="gpt_neox.embed_in",
    block="gpt_neox.layers.{i}",
    norm="gpt_neox.final_layer_norm",
    head="embed_out",
    attention=GroupedNames(qkv=("attention.query_key_value",), out="attention.dense", by_group=True),
    feed_forward=FeedForwardNames(up=("mlp.dense_h_to_4h",), down="mlp.dense_4h_to_h"),
)
GPTJ = Layout(
    embedding="transformer.wte",
    block="transformer.h.{i}",
    norm="transformer.ln_f",
    before=("ln_1",),
    attention=GroupedNames(qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"), out="attn.out_proj"),
    feed_forward=FeedForwardNames(up=("mlp.fc_in",), down="mlp.fc_out"),
)
PHI = Layout(
    norm="model.final_layernorm",
    before=("input_layernorm",),
    attention=GroupedNames(out="self_attn.dense", query_norm="self_attn.q_layernorm", key_norm="self_attn.k_layernorm"),
    feed_forward=FeedForwardNames(up=("mlp.fc1",), down="mlp.fc2"),
)
STARCODER2 = Layout(feed_forward=FeedForwardNames(up=("mlp.c_fc",), down="mlp.c_proj"))
STABLELM = Layout(
    attention=GroupedNames(
        query_norm="self_attn.q_layernorm.norms.{head}", key_norm="self_attn.k_layernorm.norms.{head}"
    )
)
NEMOTRON = Layout(feed_forward=FeedForwardNames(up=("mlp.up_proj",)))


def gpt_neox(s: Settings) -> Architecture:
    bias, norm = s.flag("attention_bias", default=True), layer_norm(s, "layer_norm_eps")
    heads = grouped(s, bias=bias, kv=query_heads(s))
    attention = Attention(heads, rotary(s, fraction=0.25), out_bias=bias)
    branches = (attention, _plain(s, "gelu", bias=True))
    parallel = s.flag("use_parallel_residual", default=True)
    return decoder(s, blocks(s, lambda i: branches, norm, parallel=parallel), norm, head(s, tied=False))


def gptj(s: Settings) -> Architecture:
    """Neighbouring dimensions rotate; attention has no biases, the head has one."""
    norm, heads = layer_norm(s), grouped(s, kv=query_heads(s))
    turn = Rotary(fraction=fraction_of(s.size("rotary_dim", default=64), heads.dim), layout="interleaved")
    branches = (Attention(heads, turn), four_times(s, "gelu_new"))
    stack = blocks(s, lambda i: branches, norm, parallel=True, shared_norm=True)
    return decoder(s, stack, norm, head(s, tied=False, bias=True))


def fraction_of(rotated: int, dim: int) -> float:
    """The fraction of `dim` that is `rotated` dimensions even after rounding."""
    fraction = rotated / max(dim, 1)
    return fraction if int(dim * fraction) == rotated else math.nextafter(fraction, 1)


def phi(s: Settings) -> Architecture:
    norm = layer_norm(s, "layer_norm_eps")
    qk_norm = QKNorm(norm) if s.flag("qk_layernorm", default=False) else None
    heads = grouped(s, bias=True, qk_norm=qk_norm)
    branches = (Attention(heads, rotary(s, fraction=0.5), out_bias=True), _plain(s, "gelu_new", bias=True))
    stack = blocks(s, lambda i: branches, norm, parallel=True, shared_norm=True)
    return decoder(s, stack, norm, head(s, tied=False, bias=True))


def starcoder2(s: Settings) -> Architecture:
    bias, norm = s.flag("use_bias", default=True), layer_norm(s, "norm_epsilon")
    span = window(s.optional_whole("sliding_window"))
    attention = Attention(grouped(s, bias=bias), rotary(s), span, out_bias=bias)
    branches = (attention, _plain(s, "gelu_pytorch_tanh", bias))
    return decoder(s, blocks(s, lambda i: branches, norm), norm, head(s, tied=True))


def stablelm(s: Settings) -> Architecture:
    norm = layer_norm(s, "layer_norm_eps")
    each = QKNorm(replace(norm, bias=False), "each") if s.flag("qk_layernorm", default=False) else None
    heads = grouped(s, bias=s.flag("use_qkv_bias", default=False), qk_norm=each)
    feed = FeedForward(s.size("intermediate_size"), activation(s))
    branches = (Attention(heads, rotary(s, fraction=0.25)), feed)
    parallel = s.flag("use_parallel_residual", default=False)
    stack = blocks(s, lambda i: branches, norm, parallel=parallel, shared_norm=parallel)
    return decoder(s, stack, norm, head(s, tied=False))


def nemotron(s: Settings) -> Architecture:
    """Layer norms that act as 1 + weight, and a squared relu."""
    bias, norm = s.flag("attention_bias", default=False), replace(layer_norm(s, "norm_eps"), offset=1.0)
    attention = Attention(grouped(s, bias=bias), rotary(s, fraction=0.5), out_bias=bias)
    branches = (attention, _plain(s, "relu2", s.flag("mlp_bias", default=False)))
    return decoder(s, blocks(s, lambda i: branches, norm), norm, head(s, tied=False))


def _plain(s: Settings, default: str, bias: bool) -> FeedForward:
    return FeedForward(s.size("intermediate_size"), activation(s, default=default), gated=False, bias=bias)


FAMILIES = {
    "gpt_neox": Family(gpt_neox, lambda s: NEOX, root="gpt_neox."),
    "gptj": Family(gptj, lambda s: GPTJ, root="transformer."),
    "phi": Family(phi, lambda s: PHI),
    "starcoder2": Family(starcoder2, lambda s: STARCODER2),
    "stablelm": Family(stablelm, lambda s: STABLELM),
    "nemotron": Family(nemotron, lambda s: NEMOTRON),
}
