"""Kimi delta attention whose decay has a bound, beside latent attention with a gate on each head: Ling 3.0."""

from __future__ import annotations

from dataclasses import replace

from model.checkpoint.families.deepseek import latent, mixture, predictors, sigmoid_router
from model.checkpoint.families.family import Family
from model.checkpoint.families.kimi import feeds
from model.checkpoint.families.parts import (
    FULL_OR_LINEAR,
    MOST_HEADS,
    blocks,
    decoder,
    every,
    head,
    kinds,
    query_heads,
    rms,
)
from model.checkpoint.families.qwen_moe import APART, shared_names
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import LatentNames, Layout, MixtureNames, RecurrentNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Convolution, LearnedDecay, Norm, OutputGate, Recurrent, Rotary, StateGate

LING = Layout(
    embedding="model.word_embeddings",
    attention=LatentNames(
        query="attention.q_proj",
        query_down="attention.q_a_proj",
        query_norm="attention.q_a_layernorm",
        query_up="attention.q_b_proj",
        latent_down="attention.kv_a_proj_with_mqa",
        latent_norm="attention.kv_a_layernorm",
        latent_up="attention.kv_b_proj",
        out="attention.dense",
        gate="attention.g_proj",
    ),
    recurrent=RecurrentNames(
        into=(
            ("attention.q_proj", ("query",)),
            ("attention.k_proj", ("key",)),
            ("attention.v_proj", ("value",)),
            ("attention.g_proj", ("gate",)),
            ("attention.f_proj", ("decay",)),
            ("attention.b_proj", ("strength",)),
        ),
        taps=(
            ("attention.q_conv1d", ("query",)),
            ("attention.k_conv1d", ("key",)),
            ("attention.v_conv1d", ("value",)),
        ),
        rate="attention.A_log",
        step_bias="attention.dt_bias",
        norm="attention.o_norm",
        out="attention.o_proj",
    ),
    mixture=MixtureNames(APART, correction="mlp.gate.expert_bias", shared=shared_names("shared_experts")),
)


def bailing_hybrid(s: Settings) -> Architecture:
    """The last layer of each group attends, `layer_group_size` to a group."""
    s.only("hidden_act", "silu", "swish")
    s.only("score_function", "sigmoid")
    s.only("use_mla_nope", False)
    s.only("no_kda_lora", True)
    s.only("gated_attention_proj_granularity_type", "head_wise")
    norm, delta = rms(s, 1e-6), _delta(s)
    attention = replace(latent(s, _turn(s)), gate=OutputGate("head"))
    period = s.size("layer_group_size", default=6)
    of_layer = kinds(s, every(period, "linear_attention"), FULL_OR_LINEAR)
    feed = feeds(s, mixture(s, sigmoid_router(s, 2.5, groups=8, kept=4), shared=1), first=2)
    stack = blocks(s, lambda i: (attention if of_layer[i] == "full_attention" else delta, feed(i)), norm)
    return decoder(s, stack, norm, head(s, tied=False))


def _turn(s: Settings) -> Rotary:
    """All of a head's rotary part turns; `partial_rotary_factor` is that part's share of a head."""
    return replace(rotary(s, theta=6e6, fraction=1.0, layout="interleaved"), fraction=1.0)


def _delta(s: Settings) -> Recurrent:
    dim = s.size("linear_head_dim", "head_dim", default=128)
    bound = -s.real("kda_lower_bound", default=-5.0) if s.flag("kda_safe_gate", default=True) else None
    if bound is not None and bound <= 0:
        raise s.refusal("kda_lower_bound", "it must be negative")
    return Recurrent(
        s.size("linear_num_heads", default=query_heads(s), most=MOST_HEADS),
        dim,
        dim,
        decay=LearnedDecay("key", bound=bound),
        convolution=Convolution(s.size("linear_conv_kernel_dim", "short_conv_kernel_size", default=4)),
        gate=StateGate("sigmoid"),
        norm=Norm(eps=rms(s, 1e-6).eps),
    )


FAMILIES = {"bailing_hybrid": Family(bailing_hybrid, lambda s: LING, ignored=predictors(1))}
