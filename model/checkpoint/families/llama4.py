"""Llama 4: chunks with rotation to one full layer without, experts that weigh their input, a shared expert."""

from __future__ import annotations

from model.checkpoint.experts import stacked
from model.checkpoint.families.family import Family
from model.checkpoint.families.llama import turning_layers
from model.checkpoint.families.parts import activation, blocks, decoder, experts, grouped, head, kinds, layers, rms
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import FeedForwardNames, Layout, MixtureNames
from model.checkpoint.settings import Settings
from model.config import (
    Architecture,
    Attention,
    Chunk,
    FeedForward,
    Full,
    MoE,
    Norm,
    QKNorm,
    Router,
    Temperature,
)

LAYOUT = Layout(
    feed_forward=FeedForwardNames(("feed_forward.gate_proj", "feed_forward.up_proj"), "feed_forward.down_proj"),
    mixture=MixtureNames(
        stacked("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj", transposed=True),
        router="feed_forward.router",
        shared=FeedForwardNames(
            ("feed_forward.shared_expert.gate_proj", "feed_forward.shared_expert.up_proj"),
            "feed_forward.shared_expert.down_proj",
        ),
    ),
)


def llama4(s: Settings) -> Architecture:
    norm, turns = rms(s, 1e-5), turning_layers(s)
    of_layer = kinds(s, lambda i: "chunked_attention" if turns[i] else "full_attention", KINDS)
    attentions = {(kind, turn): _attention(s, kind, turn) for kind in KINDS for turn in (False, True)}
    sparse, moe = _sparse_layers(s), _experts(s)
    dense = FeedForward(s.size("intermediate_size_mlp"), activation(s))

    def branches(i: int) -> tuple[Attention, FeedForward | MoE]:
        return attentions[of_layer[i], bool(turns[i])], moe if i in sparse else dense

    return decoder(s, blocks(s, branches, norm), norm, head(s, tied=False))


KINDS = ("full_attention", "chunked_attention")


def _attention(s: Settings, kind: str, turned: bool) -> Attention:
    """With rotation, queries and keys are normed after it, without weights; without, queries grow with position."""
    bias = s.flag("attention_bias", default=False)
    size = s.optional_whole("attention_chunk_size", absent=8192)
    span = Chunk(size) if size and kind == "chunked_attention" else Full()
    if not turned:
        return Attention(grouped(s, bias=bias, dim=128), None, span, temperature=_temperature(s), out_bias=bias)
    plain = Norm("rms", s.positive("rms_norm_eps", default=1e-5), weight=False)
    qk_norm = QKNorm(plain, after_rotation=True) if s.flag("use_qk_norm", default=True) else None
    heads = grouped(s, bias=bias, qk_norm=qk_norm, dim=128)
    return Attention(heads, rotary(s, theta=5e5, layout="interleaved"), span, out_bias=bias)


def _temperature(s: Settings) -> Temperature | None:
    """Meta's own files say 4 for true."""
    if not s.choice("attn_temperature_tuning", among={True: True, False: False, 4: True}, default=True):
        return None
    return Temperature(s.positive("floor_scale", default=8192.0), s.real("attn_scale", default=0.1))


def _experts(s: Settings) -> MoE:
    expert = FeedForward(s.size("intermediate_size"), activation(s))
    router = Router("sigmoid", normalise=False)
    count = experts(s, "num_local_experts", "num_experts")
    return MoE(count, s.size("num_experts_per_tok", default=1), expert, router, expert, weigh="input")


def _sparse_layers(s: Settings) -> frozenset[int]:
    step = max(s.whole("interleave_moe_layer_step", default=1), 1)
    found = s.indices("moe_layers")
    return frozenset(range(step - 1, layers(s), step)) if found is None else found


FAMILIES = {"llama4_text": Family(llama4, lambda s: LAYOUT)}
