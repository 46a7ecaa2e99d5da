"""Kimi delta attention beside latent attention without positions, dense layers first, then experts: Kimi Linear
(arXiv:2510.26692)."""

from __future__ import annotations

from collections.abc import Callable

from model.checkpoint.experts import apart
from model.checkpoint.families.deepseek import latent_heads, mixture, predictors, sigmoid_router
from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import (
    FULL_OR_LINEAR,
    MOST_HEADS,
    blocks,
    decoder,
    feed_forward,
    head,
    kinds,
    layers,
    rms,
)
from model.checkpoint.layout import FeedForwardNames, LatentNames, Layout, MixtureNames, RecurrentNames
from model.checkpoint.settings import Settings
from model.config import (
    Architecture,
    Attention,
    Convolution,
    FeedForward,
    LearnedDecay,
    MoE,
    Norm,
    Recurrent,
    StateGate,
)

SPARSE = "block_sparse_moe"
SHARED = f"{SPARSE}.shared_experts"
KIMI = Layout(
    attention=LatentNames(),
    recurrent=RecurrentNames(
        into=(
            ("self_attn.q_proj", ("query",)),
            ("self_attn.k_proj", ("key",)),
            ("self_attn.v_proj", ("value",)),
            ("self_attn.g_a_proj", ("gate",)),
            ("self_attn.f_a_proj", ("decay",)),
            ("self_attn.b_proj", ("strength",)),
        ),
        taps=(
            ("self_attn.q_conv1d", ("query",)),
            ("self_attn.k_conv1d", ("key",)),
            ("self_attn.v_conv1d", ("value",)),
        ),
        gate_up="self_attn.g_b_proj",
        decay_up="self_attn.f_b_proj",
        rate="self_attn.A_log",
        step_bias="self_attn.dt_bias",
        norm="self_attn.o_norm",
        rate_ones=(0, 1, 3),
    ),
    mixture=MixtureNames(
        apart(f"{SPARSE}.experts.{{e}}.w1", f"{SPARSE}.experts.{{e}}.w3", f"{SPARSE}.experts.{{e}}.w2"),
        router=f"{SPARSE}.gate",
        correction=f"{SPARSE}.gate.e_score_correction_bias",
        shared=FeedForwardNames((f"{SHARED}.gate_proj", f"{SHARED}.up_proj"), f"{SHARED}.down_proj"),
    ),
)


def kimi_linear(s: Settings) -> Architecture:
    s.only("hidden_act", "silu", "swish")
    s.only("mla_use_nope", True)
    s.only("mla_use_output_gate", False)
    s.only("moe_router_activation_func", "sigmoid")
    norm, heads, delta = rms(s, 1e-5), latent_heads(s), _delta(s)
    attention = Attention(heads, out_bias=heads.bias)
    of_layer = kinds(s, _of_layer(s), FULL_OR_LINEAR)
    feed = feeds(s, mixture(s, sigmoid_router(s, 2.446, groups=1, kept=1), shared=1), first=1)
    stack = blocks(s, lambda i: (attention if of_layer[i] == "full_attention" else delta, feed(i)), norm)
    return decoder(s, stack, norm, head(s, tied=False))


def _delta(s: Settings) -> Recurrent:
    """The gate and the decay are made through as many numbers as a head has."""
    own = s.table("linear_attn_config")
    own.only("gate_lower_bound")
    own.only("use_full_rank_gate", False)
    dim = own.size("head_dim", default=s.size("linear_head_dim", default=128))
    count = own.size("num_heads", default=s.size("linear_num_heads", default=32), most=MOST_HEADS)
    width = own.size("short_conv_kernel_size", default=s.size("linear_conv_kernel_dim", default=4))
    return Recurrent(
        count,
        dim,
        dim,
        decay=LearnedDecay("key", rank=dim),
        convolution=Convolution(width),
        gate=StateGate("sigmoid", rank=dim),
        norm=Norm(eps=rms(s, 1e-5).eps),
    )


def _of_layer(s: Settings) -> Callable[[int], str]:
    """The kind of each layer where there are no `layer_types`: by two lists, in which layers count from 1."""
    if s.has("layer_types"):
        return lambda i: ""
    own, count = s.table("linear_attn_config"), layers(s)
    full, linear = (own.indices(key) or frozenset() for key in ("full_attn_layers", "kda_layers"))
    if full & linear or full | linear != set(range(1, count + 1)):
        raise own.refusal("full_attn_layers", f"it and kda_layers must have each of 1 to {count} once")
    return lambda i: "full_attention" if i + 1 in full else "linear_attention"


def feeds(s: Settings, moe: MoE, first: int) -> Callable[[int], FeedForward | MoE]:
    """Dense layers, then experts, or as `mlp_layer_types` says; `first`: the default number of dense layers."""
    dense, first = feed_forward(s), s.whole("first_k_dense_replace", default=first)
    said = s.words("mlp_layer_types", layers(s), ("dense", "sparse"))
    return lambda i: dense if (i < first if said is None else said[i] == "dense") else moe


FAMILIES = {"kimi_linear": Family(kimi_linear, lambda s: KIMI, ignored=predictors(0))}
