"""Rotary positions as config.json files say them, in the keys of today and of earlier years."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from model import config
from model.checkpoint.families.parts import FULL_OR_SLIDING, context
from model.checkpoint.settings import Settings
from model.config import Rotary, Scaling


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
    base = rope.positive("rope_theta", default=settings.positive("rope_theta", "rotary_emb_base", default=theta))
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
    base = rope.positive("rope_theta", default=settings.positive(key, default=theta))
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
        "linear": lambda rope, length: config.LinearScaling(rope.positive("factor")),
        "llama3": _llama3,
        "yarn": _yarn,
    }
    return rope.choice("rope_type", "type", among=kinds, default="default")(rope, length)


def _llama3(rope: Settings, length: int) -> Scaling:
    return config.Llama3Scaling(
        rope.positive("factor"),
        rope.size("original_max_position_embeddings", default=length),
        rope.positive("low_freq_factor"),
        rope.positive("high_freq_factor"),
    )


def _yarn(rope: Settings, length: int) -> Scaling:
    original = rope.size("original_max_position_embeddings", default=length)
    factor = rope.positive("factor", default=length / max(original, 1))
    return config.YarnScaling(
        factor,
        original,
        rope.positive("beta_fast", default=32.0),
        rope.positive("beta_slow", default=1.0),
        _magnitude(rope, factor),
        rope.flag("truncate", default=True),
    )


def _magnitude(rope: Settings, factor: float) -> float | None:
    """What YaRN multiplies cosine and sine by: said outright, or the ratio of two scales, or None for the usual."""
    plain, whole = rope.real("mscale", default=0.0), rope.real("mscale_all_dim", default=0.0)
    ratio = yarn_scale(factor, plain) / yarn_scale(factor, whole) if plain and whole else None
    return rope.positive("attention_factor") if rope.has("attention_factor") else ratio


def yarn_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
