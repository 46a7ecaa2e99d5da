"""The architecture card: what a model is and costs, as data for pages and programs. model/inspect.py prints it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from model.accounting import cache_bytes_per_token, flops_per_token, parameters
from model.codec import architecture_to_dict
from model.config import Architecture
from model.describe import describe
from model.presets import Preset

LENGTHS = (1024, 32768)


def card(
    name: str, architecture: Architecture, dtype: str = "bfloat16", preset: Preset | None = None
) -> dict[str, Any]:
    """JSON-ready. Cache bytes in `dtype`; operations of one decode step at each of LENGTHS, also where they are beyond
    the context; `published` are its makers' figures, where the architecture is a preset as published."""
    counted = parameters(architecture)
    return {
        "name": name,
        "parameters": {
            "total": counted.total,
            "active": counted.active,
            "active_without_embeddings": counted.active_without_embeddings,
        },
        "parameters_by_part": asdict(counted.all),
        "cache_bytes_per_token": cache_bytes_per_token(architecture, dtype),
        "flops_per_token": {str(length): flops_per_token(architecture, length).total for length in LENGTHS},
        "dtype": dtype,
        "description": describe(architecture),
        "published": None if preset is None else _published(preset),
        "architecture": architecture_to_dict(architecture),
    }


def _published(preset: Preset) -> dict[str, Any]:
    origin = {"year": preset.year, "source": preset.source, "checkpoint": preset.checkpoint, "remark": preset.note}
    return {**asdict(preset.published), **origin}
