"""What the families share: how their common keys read as parts of an architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Literal

from model import config
from model.checkpoint.settings import Settings
from model.config import Activation, Architecture, Block, Grouped, Rotary, Scaling, Span

MOST_LAYERS = 4096
MOST_HEADS = 65536
QUERY_HEADS = ("num_attention_heads", "n_head", "n_heads")
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
FULL_OR_SLIDING = ("full_attention", "sliding_attention")


def width(settings: Settings) -> int:
    return settings.whole("hidden_size", "n_embd", "d_model", "n_embed")


def layers(settings: Settings) -> int:
    return settings.whole("num_hidden_layers", "n_layer", "n_layers", most=MOST_LAYERS)


def context(settings: Settings) -> int:
    """The longest sequence; the oldest files do not say it, their models have this one."""
    return settings.whole("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", default=2048)


def experts(settings: Settings, *keys: str) -> int:
    return settings.whole(*keys, most=MOST_HEADS)


def activation(settings: Settings, key: str = "hidden_act", default: str = "silu") -> Activation:
    return settings.choice(key, among=ACTIVATIONS, default=default)


def grouped(
    settings: Settings,
    *,
    bias: bool = False,
    qk_norm: config.QKNorm | None = None,
    clip: float | None = None,
    kv: int | None = None,
    dim: int | None = None,
) -> Grouped:
    """Heads by the usual keys. As many key heads as query heads, and heads that share the width, unless the file or the
    family (`kv`, `dim`) says otherwise."""
    query = query_heads(settings)
    kv = settings.whole("num_key_value_heads", default=query, most=MOST_HEADS) if kv is None else kv
    return Grouped(query, kv, head_dim(settings, query, dim), bias, qk_norm, clip)


def query_heads(settings: Settings) -> int:
    return settings.whole(*QUERY_HEADS, most=MOST_HEADS)


def head_dim(settings: Settings, heads: int, default: int | None = None) -> int:
    """The key `head_dim`, or the family's default, or an equal share of the width."""
    if settings.has("head_dim"):
        return settings.whole("head_dim")
    if default is not None:
        return default
    total = width(settings)
    if heads == 0 or total % heads:
        raise settings.refusal(settings.first(*QUERY_HEADS), f"it does not divide the width {total}")
    return total // heads


# ---------------------------------------------------------------------------------------------- rotation


def rotary(
    settings: Settings,
    *,
    theta: float = 10000.0,
    fraction: float | None = None,
    layout: Literal["half", "interleaved"] = "half",
) -> Rotary:
    """The rotation by `rope_parameters`, or by `rope_scaling` and `rope_theta` as older files have it.

    fraction: its default where the family rotates a part of each head; None where it rotates whole heads only.
    """
    rope = _rope(settings)
    base = rope.real("rope_theta", default=settings.real("rope_theta", "rotary_emb_base", default=theta))
    if fraction is None:
        for table in (rope, settings):
            table.only("partial_rotary_factor", 1)
    part = settings.real("partial_rotary_factor", "rotary_pct", default=1.0 if fraction is None else fraction)
    return Rotary(base, rope.real("partial_rotary_factor", default=part), layout, scaling(rope, context(settings)))


def rotary_by_kind(settings: Settings, kind: str, theta: float, key: str = "rope_theta") -> Rotary:
    """The rotation of one kind of layers, where `rope_parameters` has a table for each. Older files scale the full
    layers only, by `rope_scaling`, and have the frequency base in `key`."""
    rope = settings.table("rope_scaling") if kind == "full_attention" else Settings({})
    if rope.empty:
        rope = settings.table("rope_parameters").table(kind)
    base = rope.real("rope_theta", default=settings.real(key, default=theta))
    return Rotary(base, scaling=scaling(rope, context(settings)))


def _rope(settings: Settings) -> Settings:
    legacy = settings.table("rope_scaling")
    rope = settings.table("rope_parameters") if legacy.empty else legacy
    for kind in FULL_OR_SLIDING:
        if rope.has(kind):
            raise rope.refusal(kind, "not supported; this model_type rotates all layers alike")
    return rope


def scaling(rope: Settings, length: int) -> Scaling | None:
    """The scaling a table asks for; `length` is the model's context."""
    kinds: dict[str, Callable[[Settings, int], Scaling | None]] = {
        "default": lambda rope, length: None,
        # Grows with the sequence, but only past the context, where this model ends.
        "dynamic": lambda rope, length: None,
        "linear": lambda rope, length: config.LinearScaling(rope.real("factor")),
        "llama3": _llama3,
        "yarn": _yarn,
    }
    return rope.choice("rope_type", "type", among=kinds, default="default")(rope, length)


def _llama3(rope: Settings, length: int) -> Scaling:
    return config.Llama3Scaling(
        rope.real("factor"),
        rope.whole("original_max_position_embeddings", default=length),
        rope.real("low_freq_factor"),
        rope.real("high_freq_factor"),
    )


def _yarn(rope: Settings, length: int) -> Scaling:
    original = rope.whole("original_max_position_embeddings", default=length)
    factor = rope.real("factor", default=length / max(original, 1))
    return config.YarnScaling(
        factor,
        original,
        rope.real("beta_fast", default=32.0),
        rope.real("beta_slow", default=1.0),
        _magnitude(rope, factor),
        rope.flag("truncate", default=True),
    )


def _magnitude(rope: Settings, factor: float) -> float | None:
    """What YaRN multiplies cosine and sine by: said outright, or the ratio of two scales, or None for the usual."""
    plain, whole = rope.real("mscale", default=0.0), rope.real("mscale_all_dim", default=0.0)
    ratio = yarn_scale(factor, plain) / yarn_scale(factor, whole) if plain and whole else None
    return rope.real("attention_factor") if rope.has("attention_factor") else ratio


def yarn_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


# ---------------------------------------------------------------------------------------------- layers


def window(size: int | None) -> Span:
    """A window of `size`, or everything for None and 0."""
    return config.Window(size) if size else config.Full()


def kinds(settings: Settings, default: Callable[[int], str], allowed: Collection[str] = FULL_OR_SLIDING) -> list[str]:
    """The kind of attention of each layer, by `layer_types` or the family's default for a layer."""
    count = layers(settings)
    return settings.words("layer_types", count, allowed) or [default(i) for i in range(count)]


def blocks(
    settings: Settings,
    branches: Callable[[int], tuple[config.Branch, ...]],
    norm: config.Norm,
    placement: Literal["pre", "post", "output", "sandwich"] = "pre",
    parallel: bool = False,
    shared_norm: bool = False,
    residual_scale: float = 1.0,
) -> tuple[Block, ...]:
    """All blocks, equal but for their branches; `branches` is asked for each layer's."""
    form = (norm, placement, parallel, shared_norm, residual_scale)
    return tuple(Block(branches(i), *form) for i in range(layers(settings)))


def every(period: int) -> Callable[[int], str]:
    """Windows, and every `period`-th layer full."""
    return lambda i: "sliding_attention" if (i + 1) % period else "full_attention"


def rms(settings: Settings, default: float, offset: float = 0.0) -> config.Norm:
    return config.Norm("rms", settings.real("rms_norm_eps", default=default), offset=offset)


def layer_norm(settings: Settings, *keys: str, default: float = 1e-5, bias: bool = True) -> config.Norm:
    return config.Norm("layer", settings.real(*(keys or ("layer_norm_epsilon",)), default=default), bias=bias)


def head(
    settings: Settings, tied: bool, bias: bool = False, scale: float = 1.0, softcap: float | None = None
) -> config.Head:
    """tied: the family's default of tie_word_embeddings."""
    return config.Head(settings.flag("tie_word_embeddings", default=tied), bias, scale, softcap)


def decoder(
    settings: Settings,
    blocks: tuple[Block, ...],
    norm: config.Norm | None,
    head: config.Head,
    embedding: config.Embedding | None = None,
) -> Architecture:
    """The whole model around its blocks."""
    vocab, embedding = settings.whole("vocab_size"), embedding or config.Embedding()
    return Architecture(vocab, width(settings), context(settings), blocks, embedding, norm, head)
