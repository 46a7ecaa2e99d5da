"""MiniMax-Text-01: lightning attention in most layers, and norms on the sums of branches and residual stream.

A layer norms what it is given, and it is this norm that a branch is added to; so the norm before a layer is the one
after the layer below, that before the first layer belongs to the embedding, and the last is the model's own.
"""

from __future__ import annotations

from dataclasses import replace

from model.checkpoint.families.family import Family
from model.checkpoint.families.mixtral import MIXTRAL
from model.checkpoint.families.neox import fraction_of
from model.checkpoint.families.parts import (
    FULL_OR_LINEAR,
    blocks,
    decoder,
    experts,
    feed_forward,
    grouped,
    head,
    head_dim,
    kinds,
    layers,
    query_heads,
    rms,
    window,
)
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import RecurrentNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, Embedding, FixedDecay, MoE, Norm, Recurrent, StateGate

BRANCHES = ("full_attn", "linear_attn", "mlp")


def minimax(s: Settings) -> Architecture:
    """A part of each head turns where `rotary_dim` says so, which the reference does not read."""
    norm, scale = rms(s, 1e-5), _weight(s, "alpha")
    heads = grouped(s)
    part = fraction_of(s.size("rotary_dim"), heads.dim) if s.has("rotary_dim") else 1.0
    attention = Attention(heads, rotary(s, theta=1e6, fraction=part), window(s.optional_whole("sliding_window")))
    moe = MoE(experts(s, "num_local_experts", "num_experts"), s.size("num_experts_per_tok"), feed_forward(s))
    of_layer = kinds(s, lambda i: FULL_OR_LINEAR[i % 2], FULL_OR_LINEAR)

    def branches(i: int) -> tuple[Attention | Recurrent, MoE]:
        return (attention if of_layer[i] == "full_attention" else _lightning(s, i)), moe

    # norm(alpha x + beta y) = norm(x + beta / alpha y), where eps is divided by alpha squared.
    summed = replace(norm, eps=norm.eps / scale**2)
    stack = blocks(s, branches, summed, "post", residual_scale=_weight(s, "beta") / scale)
    return decoder(s, stack, None, head(s, tied=False), Embedding(norm=norm))


def _weight(s: Settings, kind: str) -> float:
    """What the residual stream (alpha) or every branch (beta) is multiplied by before they are added."""
    keys = [f"{branch}_{kind}_factor" for branch in BRANCHES]
    weights = [s.positive(key, default=1.0) for key in keys]
    for key, weight in zip(keys, weights, strict=True):
        if weight != weights[0]:
            raise s.refusal(key, f"not supported where {keys[0]} is {weights[0]}")
    return weights[0]


def _lightning(s: Settings, layer: int) -> Recurrent:
    """The deeper the layer, the longer its heads remember; the norm has an eps of its own."""
    s.only("hidden_act", "silu", "swish")
    count = query_heads(s)
    dim = head_dim(s, count)
    decay = FixedDecay(1 - layer / (layers(s) - 1 + 1e-5) + 1e-5)
    return Recurrent(
        count,
        dim,
        dim,
        rule="add",
        decay=decay,
        convolution=None,
        gate=StateGate("sigmoid"),
        norm=Norm(eps=1e-6),
        norm_over="all",
    )


LAYOUT = replace(
    MIXTRAL,
    embedding_norm="model.layers.0.input_layernorm",
    after=("post_attention_layernorm",),
    following="input_layernorm",
    recurrent=RecurrentNames(
        into=(("self_attn.qkv_proj", ("query", "key", "value")), ("self_attn.output_gate", ("gate",))),
        by_key_head=True,
        norm="self_attn.norm",
        out="self_attn.out_proj",
    ),
)
# Constants of the decay, which files of the reference keep.
DECAY = r"(.*\.)?self_attn\.(slope_rate|(query|key|diagonal)_decay)"
FAMILIES = {"minimax": Family(minimax, lambda s: LAYOUT, ignored=lambda s: (DECAY,))}
