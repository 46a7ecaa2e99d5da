"""Latent attention, dense layers first, shared experts, groups of experts: DeepSeek V2 and V3, and GLM 4.5, which has
their experts with grouped heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import (
    activation,
    blocks,
    decoder,
    experts,
    feed_forward,
    grouped,
    head,
    layers,
    query_heads,
    rms,
)
from model.checkpoint.families.qwen_moe import APART, shared_names
from model.checkpoint.families.rotation import rotary, yarn_scale
from model.checkpoint.layout import LatentNames, Layout, MixtureNames
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, FeedForward, Groups, Latent, MoE, QKNorm, Rotary, Router, YarnScaling

MIXTURE = MixtureNames(APART, shared=shared_names("shared_experts"))
DEEPSEEK = Layout(attention=LatentNames(), mixture=MIXTURE)
GLM = Layout(mixture=MIXTURE)


def deepseek_v2(s: Settings) -> Architecture:
    """A softmax router; a group is as good as its best expert. The weights of the chosen are never made to sum to one:
    the reference does not look at `norm_topk_prob`."""
    s.only("scoring_func", "softmax")
    limited = s.choice("topk_method", among={"greedy": False, "group_limited_greedy": True}, default="greedy")
    groups = _groups(s, 1, "max") if limited else None
    router = Router(normalise=False, scale=s.positive("routed_scaling_factor", default=1.0), groups=groups)
    bias = s.flag("mlp_bias", default=False)
    return _sparse(s, latent(s, _turn(s, interleaved=True)), router, first_dense=0, shared=2, bias=bias)


def deepseek_v3(s: Settings) -> Architecture:
    """A sigmoid router whose bias selects but does not weigh; a group is as good as its two best experts."""
    s.only("scoring_func", "sigmoid")
    s.only("topk_method", "noaux_tc")
    attention = latent(s, _turn(s, s.flag("rope_interleave", default=True)))
    return _sparse(s, attention, sigmoid_router(s, 2.5, groups=8, kept=4), first_dense=3, shared=1)


def glm4_moe(s: Settings) -> Architecture:
    norm = QKNorm(rms(s, 1e-5)) if s.flag("use_qk_norm", default=False) else None
    heads = grouped(s, bias=s.flag("attention_bias", default=False), qk_norm=norm)
    attention = Attention(heads, rotary(s, fraction=0.5))
    return _sparse(s, attention, sigmoid_router(s, 1.0, groups=1, kept=1), first_dense=1, shared=1, eps=1e-5)


def sigmoid_router(s: Settings, scale: float, groups: int, kept: int) -> Router:
    return Router(
        "sigmoid",
        normalise=s.flag("norm_topk_prob", "moe_renormalize", default=True),
        scale=s.positive("routed_scaling_factor", default=scale),
        correction=True,
        groups=_groups(s, groups, "top2", kept),
    )


def _groups(s: Settings, count: int, score: Literal["max", "top2"], kept: int = 1) -> Groups | None:
    count, kept = s.whole("n_group", "num_expert_group", default=count), s.whole("topk_group", default=kept)
    return Groups(count, kept, score) if count > 1 else None


def _turn(s: Settings, interleaved: bool) -> Rotary:
    return rotary(s, layout="interleaved" if interleaved else "half")


def latent(s: Settings, turn: Rotary) -> Attention:
    """YaRN sharpens the scores besides turning slower."""
    heads = latent_heads(s)
    scale = None
    if isinstance(turn.scaling, YarnScaling):
        rope = s.table("rope_scaling") if s.has("rope_scaling") else s.table("rope_parameters")
        scale = heads.dim**-0.5 * yarn_scale(turn.scaling.factor, rope.real("mscale_all_dim", default=0.0)) ** 2
    return Attention(heads, turn, scale=scale, out_bias=heads.bias)


def latent_heads(s: Settings) -> Latent:
    """The inner norms have an eps of their own."""
    return Latent(
        query_heads(s),
        s.size("kv_lora_rank"),
        s.size("qk_nope_head_dim"),
        s.whole("qk_rope_head_dim"),
        s.size("v_head_dim"),
        query_rank=s.optional_whole("q_lora_rank"),
        bias=s.flag("attention_bias", default=False),
    )


def _sparse(
    s: Settings,
    attention: Attention,
    router: Router,
    *,
    first_dense: int,
    shared: int,
    eps: float = 1e-6,
    bias: bool = False,
) -> Architecture:
    """Dense layers, then mixtures; `first_dense`, `shared`: default numbers of dense layers and of shared experts."""
    moe = mixture(s, router, shared, bias)
    first, dense, norm = s.whole("first_k_dense_replace", default=first_dense), feed_forward(s, bias), rms(s, eps)
    stack = blocks(s, lambda i: (attention, moe if i >= first else dense), norm)
    return decoder(s, stack, norm, head(s, tied=False))


def mixture(s: Settings, router: Router, shared: int, bias: bool = False) -> MoE:
    """Routed experts, and shared ones as one of their size together; `shared`: the default of how many."""
    s.only("moe_layer_freq", 1)
    hidden, kind = s.size("moe_intermediate_size"), activation(s)
    count = s.whole("n_shared_experts", "num_shared_experts", default=shared)
    beside = FeedForward(hidden * count, kind, bias=bias) if count else None
    routed = experts(s, "n_routed_experts", "num_local_experts", "num_experts")
    chosen = s.size("num_experts_per_tok", "num_experts_per_token")
    return MoE(routed, chosen, FeedForward(hidden, kind), router, beside)


def predictors(default: int) -> Callable[[Settings], tuple[str, ...]]:
    """The layers behind the last one predict further tokens in training and are not run."""

    def ignored(s: Settings) -> tuple[str, ...]:
        first, count = layers(s), s.whole("num_nextn_predict_layers", "num_mtp_layers", default=default)
        return tuple(rf"model\.layers\.{first + i}\..*" for i in range(min(count, 64)))

    return ignored


FAMILIES = {
    "deepseek_v2": Family(deepseek_v2, lambda s: DEEPSEEK),
    "deepseek_v3": Family(deepseek_v3, lambda s: DEEPSEEK, ignored=predictors(1)),
    "glm4_moe": Family(glm4_moe, lambda s: GLM, ignored=predictors(1)),
}
