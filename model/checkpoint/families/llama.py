"""Pre-norm decoders with rotary attention and a gated feed-forward, without experts."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import blocks, decoder, feed_forward, grouped, head, kinds, layers, rms, window
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import FeedForwardNames, GroupedNames, Layout
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, FeedForward, Grouped, QKNorm, Span


def uniform(s: Settings, attention: Attention, eps: float = 1e-6, bias: bool = False) -> Architecture:
    """The same attention in every layer; eps is the family's default, bias the feed-forward's."""
    norm, branches = rms(s, eps), (attention, feed_forward(s, bias))
    return decoder(s, blocks(s, lambda i: branches, norm), norm, head(s, tied=False))


def llama(s: Settings) -> Architecture:
    bias = s.flag("attention_bias", default=False)
    attention = Attention(grouped(s, bias=bias), rotary(s), out_bias=bias)
    return uniform(s, attention, bias=s.flag("mlp_bias", default=False))


def mistral(s: Settings) -> Architecture:
    return uniform(s, Attention(grouped(s), rotary(s), window(s.optional_whole("sliding_window", absent=4096))))


def phi3(s: Settings) -> Architecture:
    size = s.optional_whole("sliding_window")
    return uniform(s, Attention(grouped(s), rotary(s, fraction=1.0), window(size)), eps=1e-5)


def qwen2(s: Settings) -> Architecture:
    return _qwen(s, grouped(s, bias=True))


def qwen3(s: Settings) -> Architecture:
    bias = s.flag("attention_bias", default=False)
    return _qwen(s, grouped(s, bias=bias, qk_norm=QKNorm(rms(s, 1e-6)), dim=128), out_bias=bias)


def _qwen(s: Settings, heads: Grouped, out_bias: bool = False) -> Architecture:
    """Windows in the upper layers, where `use_sliding_window` switches them on."""
    norm, feed, spans = rms(s, 1e-6), feed_forward(s), switched_windows(s)
    attention = Attention(heads, rotary(s), out_bias=out_bias)
    stack = blocks(s, lambda i: (replace(attention, span=spans[i]), feed), norm)
    return decoder(s, stack, norm, head(s, tied=False))


def switched_windows(s: Settings, windowed: Callable[[int, int], bool] = operator.ge) -> list[Span]:
    """The span of each layer: by `layer_types`, else a window where windowed(layer, `max_window_layers`)."""
    size = s.optional_whole("sliding_window") if s.flag("use_sliding_window", default=False) else None
    first = s.whole("max_window_layers", default=28)
    of_layer = kinds(s, lambda i: "sliding_attention" if windowed(i, first) else "full_attention")
    return [window(size if kind == "sliding_attention" else None) for kind in of_layer]


def smollm3(s: Settings) -> Architecture:
    """Every fourth layer has no positions (and, where windows are switched on, a window)."""
    bias, norm, turn = s.flag("attention_bias", default=False), rms(s, 1e-6), rotary(s, theta=2e6)
    feed, heads = feed_forward(s, s.flag("mlp_bias", default=False)), grouped(s, bias=bias)
    turns = turning_layers(s)
    size = s.optional_whole("sliding_window") if s.flag("use_sliding_window", default=False) else None
    of_layer = kinds(s, lambda i: "full_attention" if turns[i] else "sliding_attention")

    def branches(i: int) -> tuple[Attention, FeedForward]:
        span = window(size if of_layer[i] == "sliding_attention" else None)
        return Attention(heads, turn if turns[i] else None, span, out_bias=bias), feed

    return decoder(s, blocks(s, branches, norm), norm, head(s, tied=True))


def turning_layers(s: Settings) -> list[int]:
    """1 for every layer with rotation. The key says the opposite of what it means: `no_rope_layers[i] = 1` rotates."""
    period = max(s.whole("no_rope_layer_interval", default=4), 1)
    return s.wholes("no_rope_layers", layers(s)) or [int((i + 1) % period != 0) for i in range(layers(s))]


FUSED = Layout(
    attention=GroupedNames(qkv=("self_attn.qkv_proj",)), feed_forward=FeedForwardNames(up=("mlp.gate_up_proj",))
)
FAMILIES = {
    "llama": Family(llama, lambda s: Layout(), written="LlamaForCausalLM"),
    "mistral": Family(mistral, lambda s: Layout(), written="MistralForCausalLM"),
    "phi3": Family(phi3, lambda s: FUSED),
    "qwen2": Family(qwen2, lambda s: Layout(), written="Qwen2ForCausalLM"),
    "qwen3": Family(qwen3, lambda s: Layout(), written="Qwen3ForCausalLM"),
    "smollm3": Family(smollm3, lambda s: Layout()),
}
