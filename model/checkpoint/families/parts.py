"""What the families share: how their common keys read as parts of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from model import config
from model.checkpoint.settings import Settings
from model.config import Activation, Architecture, Block, FeedForward, Grouped, Span
from model.pattern import MOST_LAYERS

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
FULL_OR_LINEAR = ("full_attention", "linear_attention")


def width(settings: Settings) -> int:
    return settings.size("hidden_size", "n_embd", "d_model", "n_embed")


def layers(settings: Settings) -> int:
    return settings.size("num_hidden_layers", "n_layer", "n_layers", most=MOST_LAYERS)


def context(settings: Settings) -> int:
    """The longest sequence in tokens; 2,048 where the file does not say, as the oldest do not."""
    keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
    return settings.size(*keys, default=2048)


def experts(settings: Settings, *keys: str) -> int:
    return settings.size(*keys, most=MOST_HEADS)


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
    dim = head_dim(settings, query, dim)
    if kv is None:
        kv = settings.size("num_key_value_heads", default=query, most=MOST_HEADS)
        if query % kv:
            raise settings.refusal("num_key_value_heads", f"it does not divide {settings.first(*QUERY_HEADS)}={query}")
    return Grouped(query, kv, dim, bias, qk_norm, clip)


def query_heads(settings: Settings) -> int:
    return settings.size(*QUERY_HEADS, most=MOST_HEADS)


def head_dim(settings: Settings, heads: int, default: int | None = None) -> int:
    """The key `head_dim`, or the family's default, or an equal share of the width."""
    if settings.has("head_dim"):
        return settings.size("head_dim")
    if default is not None:
        return default
    total = width(settings)
    if total % heads:
        raise settings.refusal(settings.first(*QUERY_HEADS), f"it does not divide the width {total}")
    return total // heads


def feed_forward(settings: Settings, bias: bool = False) -> FeedForward:
    """The gated feed-forward of the usual keys."""
    return FeedForward(settings.size("intermediate_size"), activation(settings), bias=bias)


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


def every(period: int, others: str = "sliding_attention") -> Callable[[int], str]:
    """The default for `kinds`: every `period`-th layer sees everything, the others a window or what is said."""
    return lambda i: others if (i + 1) % period else "full_attention"


def rms(settings: Settings, default: float, offset: float = 0.0) -> config.Norm:
    return config.Norm("rms", settings.positive("rms_norm_eps", default=default), offset=offset)


def layer_norm(settings: Settings, *keys: str, default: float = 1e-5, bias: bool = True) -> config.Norm:
    return config.Norm("layer", settings.positive(*(keys or ("layer_norm_epsilon",)), default=default), bias=bias)


def head(
    settings: Settings, tied: bool, bias: bool = False, scale: float = 1.0, softcap: float | None = None
) -> config.Head:
    """The projection to the vocabulary; `tied`: the default of tie_word_embeddings."""
    return config.Head(settings.flag("tie_word_embeddings", default=tied), bias, scale, softcap)


def decoder(
    settings: Settings,
    stack: tuple[Block, ...],
    norm: config.Norm | None,
    last: config.Head,
    embedding: config.Embedding | None = None,
) -> Architecture:
    """The whole model around its blocks."""
    vocab, embedding = settings.size("vocab_size"), embedding or config.Embedding()
    return Architecture(vocab, width(settings), context(settings), stack, embedding, norm, last)
