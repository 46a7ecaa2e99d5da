"""Cohere: attention and feed-forward side by side behind one norm, neighbouring dimensions rotate, scaled logits."""

from __future__ import annotations

from collections.abc import Sequence

from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import (
    blocks,
    decoder,
    every,
    feed_forward,
    grouped,
    head,
    kinds,
    layer_norm,
    layers,
    window,
)
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import Layout
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, Norm, QKNorm

ONE_NORM = Layout(before=("input_layernorm",))


def cohere(s: Settings) -> Architecture:
    bias = s.flag("attention_bias", default=False)
    each = QKNorm(_norm(s), "each") if s.flag("use_qk_norm", default=False) else None
    turn = rotary(s, theta=5e5, layout="interleaved")
    attention = Attention(grouped(s, bias=bias, qk_norm=each), turn, out_bias=bias)
    return _parallel(s, [attention] * layers(s))


def cohere2(s: Settings) -> Architecture:
    """Three layers with a window and rotation to one with neither."""
    bias = s.flag("attention_bias", default=False)
    heads, size = grouped(s, bias=bias), s.whole("sliding_window", default=4096)
    full = Attention(heads, out_bias=bias)
    local = Attention(heads, rotary(s, layout="interleaved"), window(size), out_bias=bias)
    period = max(s.whole("sliding_window_pattern", default=4), 1)
    return _parallel(s, [local if kind == "sliding_attention" else full for kind in kinds(s, every(period))])


def _parallel(s: Settings, attentions: Sequence[Attention]) -> Architecture:
    norm, feed = _norm(s), feed_forward(s)
    stack = blocks(s, lambda i: (attentions[i], feed), norm, parallel=True, shared_norm=True)
    return decoder(s, stack, norm, head(s, tied=True, scale=s.positive("logit_scale", default=0.0625)))


def _norm(s: Settings) -> Norm:
    return layer_norm(s, "layer_norm_eps", bias=False)


FAMILIES = {
    "cohere": Family(cohere, lambda s: ONE_NORM),
    "cohere2": Family(cohere2, lambda s: ONE_NORM),
}
