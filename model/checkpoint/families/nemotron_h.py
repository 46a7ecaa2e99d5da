"""Nemotron-H and Nemotron 3: layers of one branch each, most of them Mamba-2 mixers or experts, without positions."""

from __future__ import annotations

import math
from collections.abc import Callable

from model.checkpoint.experts import plain
from model.checkpoint.families.deepseek import sigmoid_router
from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import MOST_HEADS, activation, decoder, experts, grouped
from model.checkpoint.layout import FeedForwardNames, GroupedNames, Layout, MixtureNames, RecurrentNames
from model.checkpoint.settings import Settings
from model.config import (
    Architecture,
    Attention,
    Block,
    Branch,
    Convolution,
    FeedForward,
    Head,
    LearnedDecay,
    MoE,
    Norm,
    Recurrent,
    StateGate,
)
from model.pattern import MOST_LAYERS

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
WORDS = {kind: kind for kind in LETTERS.values()} | {"linear_attention": "mamba", "full_attention": "attention"}
ENDLESS = (math.inf, {"__float__": "Infinity"})


def nemotron_h(s: Settings) -> Architecture:
    for key in ("attention_bias", "use_bias", "mamba_proj_bias", "tie_word_embeddings"):
        s.only(key, False)
    for key in ("moe_latent_size", "sliding_window"):
        s.only(key)
    norm = Norm("rms", s.positive("layer_norm_epsilon", default=1e-5))
    built: dict[str, Callable[[Settings, Norm], Branch]]
    built = {"mamba": _mixer, "attention": _attention, "mlp": _dense, "moe": _mixture}
    of_layer = _kinds(s)
    of_kind = {kind: Block((built[kind](s, norm),), norm) for kind in dict.fromkeys(of_layer)}
    return decoder(s, tuple(of_kind[kind] for kind in of_layer), norm, Head())


def _kinds(s: Settings) -> list[str]:
    """The kind of each layer: a letter or, in younger files, a word for each."""
    key = s.first("layers_block_type", "layer_types")
    words = s.words(key, None, WORDS)
    if words is not None:
        found = [WORDS[word] for word in words]
    else:
        key = "hybrid_override_pattern"
        found = s.letters(key, LETTERS) or []
    if not 0 < len(found) <= MOST_LAYERS:
        raise s.refusal(key, f"from 1 to {MOST_LAYERS} layers are needed")
    return found


def _mixer(s: Settings, norm: Norm) -> Recurrent:
    """Keys and queries are what Mamba-2 calls B and C, values its x; the limits of its steps are never reached."""
    for name in ("time_step_limit", "mamba_dt_limit"):
        s.only(name, *([0.0, most] for most in ENDLESS))
    s.only("mamba_hidden_act", "silu", "swish")
    return Recurrent(
        s.size("mamba_num_heads", most=MOST_HEADS),
        s.size("ssm_state_size"),
        s.size("mamba_head_dim"),
        s.size("n_groups", "mamba_n_groups", most=MOST_HEADS),
        "add",
        LearnedDecay(discrete=True),
        Convolution(s.size("conv_kernel", "mamba_d_conv"), s.flag("use_conv_bias", "mamba_conv_bias", default=True)),
        StateGate(before_norm=True),
        norm,
        "key_head",
        skip=True,
    )


def _attention(s: Settings, norm: Norm) -> Attention:
    return Attention(grouped(s))


def _dense(s: Settings, norm: Norm) -> FeedForward:
    return _plain(s, "intermediate_size", bias=s.flag("mlp_bias", default=False))


def _mixture(s: Settings, norm: Norm) -> MoE:
    shared = _plain(s, "moe_shared_expert_intermediate_size", bias=s.flag("mlp_bias", default=False))
    count, router = experts(s, "n_routed_experts", "num_local_experts"), sigmoid_router(s, 1.0, groups=1, kept=1)
    return MoE(count, s.size("num_experts_per_tok"), _plain(s, "moe_intermediate_size"), router, shared)


def _plain(s: Settings, size: str, bias: bool = False) -> FeedForward:
    return FeedForward(s.size(size), activation(s, "mlp_hidden_act", "relu2"), gated=False, bias=bias)


LAYOUT = Layout(
    embedding="backbone.embeddings",
    block="backbone.layers.{i}",
    norm="backbone.norm_f",
    before=("norm",),
    attention=GroupedNames(qkv=("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"), out="mixer.o_proj"),
    feed_forward=FeedForwardNames(("mixer.up_proj",), "mixer.down_proj"),
    mixture=MixtureNames(
        plain("mixer.experts.{e}.up_proj", "mixer.experts.{e}.down_proj"),
        router="mixer.gate",
        correction="mixer.gate.e_score_correction_bias",
        shared=FeedForwardNames(("mixer.shared_experts.up_proj",), "mixer.shared_experts.down_proj"),
    ),
    recurrent=RecurrentNames(
        into=(("mixer.in_proj", ("gate", "value", "key", "query", "decay")),),
        taps=(("mixer.conv1d", ("value", "key", "query")),),
        rate="mixer.A_log",
        step_bias="mixer.dt_bias",
        skip="mixer.D",
        norm="mixer.norm",
        out="mixer.out_proj",
    ),
)
PREDICTORS = r"mtp\..*"  # further tokens, in training
FAMILIES = {"nemotron_h": Family(nemotron_h, lambda s: LAYOUT, "backbone.", lambda s: (PREDICTORS,))}
