"""Gated delta networks beside attention with an output gate, experts behind both: Qwen3-Next, and the text model of
Qwen 3.5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import (
    FULL_OR_LINEAR,
    MOST_HEADS,
    activation,
    blocks,
    decoder,
    every,
    grouped,
    head,
    kinds,
    rms,
)
from model.checkpoint.families.qwen_moe import QWEN, qwen_experts, qwen_feeds
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import RecurrentNames
from model.checkpoint.settings import Settings
from model.config import (
    Architecture,
    Attention,
    Convolution,
    FeedForward,
    MoE,
    Norm,
    OutputGate,
    QKNorm,
    Recurrent,
    Router,
)

REST = RecurrentNames(
    into=(),
    taps=(("linear_attn.conv1d", ("query", "key", "value")),),
    rate="linear_attn.A_log",
    step_bias="linear_attn.dt_bias",
    norm="linear_attn.norm",
    out="linear_attn.out_proj",
)
FUSED = replace(
    QWEN,
    recurrent=replace(
        REST,
        into=(
            ("linear_attn.in_proj_qkvz", ("query", "key", "value", "gate")),
            ("linear_attn.in_proj_ba", ("strength", "decay")),
        ),
        by_key_head=True,
    ),
)
APART = replace(
    QWEN,
    recurrent=replace(
        REST,
        into=(
            ("linear_attn.in_proj_qkv", ("query", "key", "value")),
            ("linear_attn.in_proj_z", ("gate",)),
            ("linear_attn.in_proj_a", ("decay",)),
            ("linear_attn.in_proj_b", ("strength",)),
        ),
    ),
)


def qwen3_next(s: Settings) -> Architecture:
    return _hybrid(s, qwen_feeds(s, _sparse(s)))


def qwen3_5_moe_text(s: Settings) -> Architecture:
    """Experts in every layer, whose weights sum to one whatever the file says. The rotation has an index each for time,
    height and width, which are the same in a text."""
    moe = replace(_sparse(s), router=Router())
    return _hybrid(s, lambda i: moe)


def _sparse(s: Settings) -> MoE:
    shared = FeedForward(s.size("shared_expert_intermediate_size"), activation(s))
    return replace(qwen_experts(s, normalise=True), shared=shared, shared_gate=True)


def _hybrid(s: Settings, feeds: Callable[[int], FeedForward | MoE]) -> Architecture:
    """Every fourth layer attends. Norms act as 1 + weight, but for the one of what is read from the states."""
    s.only("hidden_act", "silu", "swish")
    s.only("attention_bias", False)  # it would be one of the gate as well
    norm, delta = rms(s, 1e-6, offset=1.0), _delta(s)
    heads = grouped(s, qk_norm=QKNorm(norm), dim=256)
    attention = Attention(heads, rotary(s, fraction=0.25), gate=OutputGate("element"))
    period = s.size("full_attention_interval", default=4)
    of_layer = kinds(s, every(period, "linear_attention"), FULL_OR_LINEAR)
    stack = blocks(s, lambda i: (attention if of_layer[i] == "full_attention" else delta, feeds(i)), norm)
    return decoder(s, stack, norm, head(s, tied=False))


def _delta(s: Settings) -> Recurrent:
    return Recurrent(
        s.size("linear_num_value_heads", default=32, most=MOST_HEADS),
        s.size("linear_key_head_dim", default=128),
        s.size("linear_value_head_dim", default=128),
        s.size("linear_num_key_heads", default=16, most=MOST_HEADS),
        convolution=Convolution(s.size("linear_conv_kernel_dim", default=4)),
        norm=Norm(eps=rms(s, 1e-6).eps),
    )


def _predictors(s: Settings) -> tuple[str, ...]:
    """Layers that predict further tokens in training and are not run."""
    return (r"mtp\..*",)


FAMILIES = {
    "qwen3_next": Family(qwen3_next, lambda s: FUSED, ignored=_predictors),
    "qwen3_5_moe_text": Family(qwen3_5_moe_text, lambda s: APART, ignored=_predictors),
}
