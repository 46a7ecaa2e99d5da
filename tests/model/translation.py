"""Weights of other libraries' models under our names, for types that have no checkpoint loader."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Named = dict[str, Tensor]


def under(prefix: str, weights: Weights) -> Named:
    """What begins with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def placed(prefix: str, weights: Weights) -> Named:
    return {f"{prefix}.{name}": tensor for name, tensor in weights.items()}


def stacked(weights: Weights, pattern: str, *names: str) -> Named:
    """q, k and v one under the other, weights and biases: pattern.format("q") is the name of one of them."""
    kinds = [kind for kind in ("weight", "bias") if f"{pattern.format(names[0])}.{kind}" in weights]
    return {kind: torch.cat([weights[f"{pattern.format(name)}.{kind}"] for name in names]) for kind in kinds}


def gated(weights: Weights, name: str) -> Named:
    """A feed-forward whose gate and up projections lie apart there and together here."""
    up = torch.cat([weights[f"{name}.gate_proj.weight"], weights[f"{name}.up_proj.weight"]])
    return {"up.weight": up, "down.weight": weights[f"{name}.down_proj.weight"]}


def ends(weights: Weights, norm: str = "model.norm") -> Named:
    """Embedding, last norm and head of a decoder-only model."""
    found = {f"norm.{kind}": weights[f"{norm}.{kind}"] for kind in ("weight", "bias") if f"{norm}.{kind}" in weights}
    found |= placed("head", under("lm_head.", weights))
    return {"embedding.weight": weights["model.embed_tokens.weight"], **found}


def switch(weights: Weights, layers: int) -> Named:
    """Switch Transformers: encoder and decoder of so many layers each."""
    named = {"embedding.weight": weights["shared.weight"], "norm.weight": weights["decoder.final_layer_norm.weight"]}
    named["encoder.norm.weight"] = weights["encoder.final_layer_norm.weight"]
    for side, ours in (("encoder", "encoder."), ("decoder", "")):
        table = weights[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        named[f"{ours}tables.0.table.weight"] = table
        for i in range(layers):
            block = under(f"{side}.block.{i}.layer.", weights)
            named |= placed(f"{ours}blocks.{i}", _switch_block(block, side == "decoder"))
    return named


def _switch_block(weights: Weights, crossing: bool) -> Named:
    attention = under("0.SelfAttention.", weights)
    parts = [{"qkv.weight": stacked(attention, "{}", "q", "k", "v")["weight"], "out.weight": attention["o.weight"]}]
    if crossing:
        cross = under("1.EncDecAttention.", weights)
        both = stacked(cross, "{}", "k", "v")["weight"]
        parts.append({"query.weight": cross["q.weight"], "key_value.weight": both, "out.weight": cross["o.weight"]})
    parts.append(_switch_feed(under(f"{len(parts)}.mlp.", weights)))
    named = {f"norms_before.{i}.weight": weights[f"{i}.layer_norm.weight"] for i in range(len(parts))}
    return named | {key: t for i, part in enumerate(parts) for key, t in placed(f"branches.{i}", part).items()}


def _switch_feed(weights: Weights) -> Named:
    if "wi.weight" in weights:
        return {"up.weight": weights["wi.weight"], "down.weight": weights["wo.weight"]}
    experts = range(sum(name.endswith("wi.weight") for name in weights))
    return {
        "router.weight": weights["router.classifier.weight"],
        "experts.up": torch.stack([weights[f"experts.expert_{e}.wi.weight"] for e in experts]),
        "experts.down": torch.stack([weights[f"experts.expert_{e}.wo.weight"] for e in experts]),
    }


def vision(weights: Weights, layers: int) -> Named:
    """The text model of Llama 3.2 Vision."""
    named = ends(weights)
    for i in range(layers):
        layer = under(f"model.layers.{i}.", weights)
        crossing = any(name.startswith("cross_attn.") for name in layer)
        attention = _vision_cross(layer) if crossing else _llama_attention(layer)
        if crossing:
            named[f"blocks.{i}.gates"] = torch.cat([layer["cross_attn_attn_gate"], layer["cross_attn_mlp_gate"]])
        named |= placed(f"blocks.{i}", _two_branches(layer, attention, gated(layer, "mlp")))
    return named


def _vision_cross(layer: Weights) -> Named:
    cross = under("cross_attn.", layer)
    return {
        "query.weight": cross["q_proj.weight"],
        "key_value.weight": stacked(cross, "{}_proj", "k", "v")["weight"],
        "query_norm.weight": cross["q_norm.weight"],
        "key_norm.weight": cross["k_norm.weight"],
        "out.weight": cross["o_proj.weight"],
    }


def _llama_attention(layer: Weights, *names: str) -> Named:
    attention = under("self_attn.", layer)
    both = placed("qkv", stacked(attention, "{}_proj", *(names or ("q", "k", "v"))))
    return both | placed("out", under("o_proj.", attention))


def _two_branches(layer: Weights, attention: Named, feed: Named) -> Named:
    named = placed("branches.0", attention) | placed("branches.1", feed)
    named |= placed("norms_before.0", under("input_layernorm.", layer))
    return named | placed("norms_before.1", under("post_attention_layernorm.", layer))


def latent(weights: Weights, layers: int, plain: int, rotary: int, value: int) -> Named:
    """Latent attention, with an indexer in DeepSeek-V3.2; the dimensions are those of a head."""
    named = ends(weights)
    for i in range(layers):
        layer = under(f"model.layers.{i}.", weights)
        attention = _latent(under("self_attn.", layer), plain, rotary, value)
        feed = gated(layer, "mlp") if "mlp.gate_proj.weight" in layer else _mixture(under("mlp.", layer))
        named |= placed(f"blocks.{i}", _two_branches(layer, attention, feed))
    return named


def _latent(weights: Weights, plain: int, rotary: int, value: int) -> Named:
    up = weights["kv_b_proj.weight"].unflatten(0, (-1, plain + value))
    return {
        "query_down.weight": weights["q_a_proj.weight"],
        "query_norm.weight": weights["q_a_layernorm.weight"],
        "query_up.weight": weights["q_b_proj.weight"],
        "latent_down.weight": weights["kv_a_proj_with_mqa.weight"],
        "latent_norm.weight": weights["kv_a_layernorm.weight"],
        "key_up": up[:, :plain],
        "value_up": up[:, plain:],
        "out.weight": weights["o_proj.weight"],
        **placed("indexer", _indexer(under("indexer.", weights))),
    }


def _indexer(weights: Weights) -> Named:
    names = {"wq_b": "query", "wk": "key", "k_norm": "key_norm", "weights_proj": "weights"}
    return {f"{ours}.{kind}": t for old, ours in names.items() for kind, t in under(f"{old}.", weights).items()}


def _mixture(weights: Weights) -> Named:
    named = {
        "router.weight": weights["gate.weight"],
        "experts.up": weights["experts.gate_up_proj"],
        "experts.down": weights["experts.down_proj"],
        **placed("shared", gated(weights, "shared_experts")),
    }
    if "gate.e_score_correction_bias" in weights:
        named["router.correction"] = weights["gate.e_score_correction_bias"]
    return named


def paired(weights: Weights, layers: int) -> Named:
    """Gemma 4 with experts beside the feed-forward. Its last step, a scalar on each layer, has to be 1."""
    named = ends(weights)
    named.pop("head.weight", None)  # tied
    for i in range(layers):
        layer = under(f"model.layers.{i}.", weights)
        names = ("q", "k", "v") if "self_attn.v_proj.weight" in layer else ("q", "k")
        attention = _llama_attention(layer, *names)
        attention["query_norm.weight"] = layer["self_attn.q_norm.weight"]
        attention["key_norm.weight"] = layer["self_attn.k_norm.weight"]
        named |= placed(f"blocks.{i}", _paired_block(layer, attention))
    return named


def _paired_block(layer: Weights, attention: Named) -> Named:
    width = layer["router.scale"].shape[0]
    feed = placed("dense", gated(layer, "mlp"))
    feed |= {
        "mixture.router.weight": layer["router.proj.weight"],
        "mixture.router.norm.weight": layer["router.scale"] * width**-0.5,
        "mixture.router.gain": layer["router.per_expert_scale"] - 1,
        "mixture.experts.up": layer["experts.gate_up_proj"],
        "mixture.experts.down": layer["experts.down_proj"],
        "norms_before.0.weight": layer["pre_feedforward_layernorm.weight"],
        "norms_before.1.weight": layer["pre_feedforward_layernorm_2.weight"],
        "norms_after.0.weight": layer["post_feedforward_layernorm_1.weight"],
        "norms_after.1.weight": layer["post_feedforward_layernorm_2.weight"],
    }
    return {
        **placed("branches.0", attention),
        **placed("branches.1", feed),
        "norms_before.0.weight": layer["input_layernorm.weight"],
        "norms_after.0.weight": layer["post_attention_layernorm.weight"],
        "norms_after.1.weight": layer["post_feedforward_layernorm.weight"],
    }


def mixed_sparsely(weights: Weights, layers: int) -> Named:
    """Phi-3.5-MoE."""
    named = ends(weights)
    for i in range(layers):
        layer = under(f"model.layers.{i}.", weights)
        feed = {
            "router.weight": layer["mlp.router.weight"],
            "experts.up": layer["mlp.experts.gate_up_proj"],
            "experts.down": layer["mlp.experts.down_proj"],
        }
        named |= placed(f"blocks.{i}", _two_branches(layer, _llama_attention(layer), feed))
    return named
