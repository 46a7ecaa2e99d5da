"""Learned positions, layer norms, biases everywhere: GPT-2, StarCoder 1, OPT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import (
    activation,
    blocks,
    context,
    decoder,
    grouped,
    head,
    layer_norm,
    query_heads,
    width,
)
from model.checkpoint.layout import FeedForwardNames, Folded, GroupedNames, Layout
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, Embedding, FeedForward, Head, Learned, Norm

GPT2 = Layout(
    embedding="transformer.wte",
    position="transformer.wpe",
    block="transformer.h.{i}",
    norm="transformer.ln_f",
    before=("ln_1", "ln_2"),
    attention=GroupedNames(qkv=("attn.c_attn",), out="attn.c_proj"),
    feed_forward=FeedForwardNames(up=("mlp.c_fc",), down="mlp.c_proj"),
    transposed=True,
)
BIGCODE = replace(
    GPT2, attention=GroupedNames(qkv=("attn.c_attn",), out="attn.c_proj", by_group=True), transposed=False
)
OPT = Layout(
    embedding="model.decoder.embed_tokens",
    position="model.decoder.embed_positions",
    block="model.decoder.layers.{i}",
    norm="model.decoder.final_layer_norm",
    before=("self_attn_layer_norm", "final_layer_norm"),
    attention=GroupedNames(out="self_attn.out_proj"),
    feed_forward=FeedForwardNames(up=("fc1",), down="fc2"),
)


def gpt2(s: Settings) -> Architecture:
    """Scores may shrink with the depth of the layer (`scale_attn_by_inverse_layer_idx`)."""
    heads, feed = grouped(s, bias=True, kv=query_heads(s)), four_times(s, "gelu_new")
    base = _score_scale(s, heads.dim)
    shrink = s.flag("scale_attn_by_inverse_layer_idx", default=False)
    return _learned(s, lambda i: (Attention(heads, scale=base / (i + 1 if shrink else 1), out_bias=True), feed))


def gpt_bigcode(s: Settings) -> Architecture:
    heads = grouped(s, bias=True, kv=1 if s.flag("multi_query", default=True) else query_heads(s))
    attention = Attention(heads, scale=_score_scale(s, heads.dim), out_bias=True)
    feed = four_times(s, "gelu_pytorch_tanh")
    return _learned(s, lambda i: (attention, feed))


def _score_scale(s: Settings, dim: int) -> float:
    return dim**-0.5 if s.flag("scale_attn_weights", default=True) else 1.0


def four_times(s: Settings, default: str) -> FeedForward:
    """A plain feed-forward, four times as wide as the model unless told; default: the family's activation."""
    hidden = s.size("n_inner", default=4 * width(s))
    return FeedForward(hidden, activation(s, "activation_function", default), gated=False, bias=True)


def _learned(s: Settings, branches: Callable[[int], tuple[Attention, FeedForward]]) -> Architecture:
    s.only("add_cross_attention", False)
    norm = layer_norm(s)
    embedding = Embedding(Learned(context(s)))
    return decoder(s, blocks(s, branches, norm), norm, head(s, tied=True), embedding)


# ---------------------------------------------------------------------------------------------- OPT


def opt(s: Settings) -> Architecture:
    """Positions count from 2. The 350M model has its norms after the branches, and a narrow embedding."""
    affine, bias = s.flag("layer_norm_elementwise_affine", default=True), s.flag("enable_bias", default=True)
    norm = Norm("layer", 1e-5, weight=affine, bias=affine)
    attention = Attention(grouped(s, bias=bias), out_bias=bias)
    feed = FeedForward(s.size("ffn_dim"), activation(s, "activation_function", "relu"), gated=False, bias=bias)
    before = s.flag("do_layer_norm_before", default=True)
    stack = blocks(s, lambda i: (attention, feed), norm, "pre" if before else "post")
    last = before and not s.flag("_remove_final_layer_norm", default=False)
    embedding = Embedding(Learned(context(s) + 2, offset=2))
    tied = Head(tied=False) if _narrow(s) else head(s, tied=True)
    return decoder(s, stack, norm if last else None, tied, embedding)


def _narrow(s: Settings) -> int | None:
    """Columns of the embedding, where they are not the width."""
    if not s.has("word_embed_proj_dim") or s.size("word_embed_proj_dim") == width(s):
        return None
    if not s.flag("tie_word_embeddings", default=True):
        raise s.refusal("tie_word_embeddings", "not supported where word_embed_proj_dim is not hidden_size")
    return s.size("word_embed_proj_dim")


def opt_layout(s: Settings) -> Layout:
    layout = OPT if s.flag("do_layer_norm_before", default=True) else replace(OPT, before=(), after=OPT.before)
    narrow = _narrow(s)
    if narrow is None:
        return layout
    return replace(layout, folded=Folded(narrow, "model.decoder.project_in", "model.decoder.project_out"))


FAMILIES = {
    "gpt2": Family(gpt2, lambda s: GPT2, root="transformer."),
    "gpt_bigcode": Family(gpt_bigcode, lambda s: BIGCODE, root="transformer."),
    "opt": Family(opt, opt_layout),
}
