"""Loads a Hugging Face directory: config.json says what it is, safetensors files hold it. No code of it is ever run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoint import fill
from model.checkpoint.error import CheckpointError
from model.checkpoint.families import FAMILIES
from model.checkpoint.families.family import Family
from model.checkpoint.fill import Progress, silent
from model.checkpoint.piece import Piece
from model.checkpoint.settings import Settings
from model.checkpoint.walk import pieces
from model.checkpoint.weights import Weights, read_json
from model.config import Architecture, ConfigError
from model.transformer import Transformer

CONFIG = "config.json"
IGNORED = (r"(.*\.)?rotary_emb\.inv_freq", r"(.*\.)?(attn|attention)\.(bias|masked_bias)")
"""Tensors that older files keep and no forward pass reads: tables of angles and causal masks."""


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a folder; CheckpointError for an unknown model type and for every unsupported value."""
    family, settings = read_settings(folder)
    return architecture_of(family, settings)


def load(folder: Path, dtype: torch.dtype, progress: Progress = silent) -> Transformer:
    """The model of a folder, parameters in `dtype`, ready to run."""
    family, settings = read_settings(folder)
    architecture, weights = architecture_of(family, settings), Weights(folder)
    layout = family.layout(settings)
    plan = rooted(pieces(architecture, layout), family.root, weights)
    ignored = (*IGNORED, *family.ignored(settings))
    if architecture.head.tied:
        ignored = (*ignored, rf"{layout.head}\.weight")
    return fill.load(architecture, plan, weights, dtype, progress, ignored)


def read_settings(folder: Path) -> tuple[Family, Settings]:
    """The family that config.json names, and its settings."""
    data = read_json(folder / CONFIG)
    settings = Settings(data)
    family = settings.choice("model_type", among=FAMILIES)
    quantisation = settings.table("quantization_config")
    if not quantisation.empty:
        if not family.quantised:
            raise quantisation.refusal("quant_method", "not supported with this model_type")
        quantisation.choice("quant_method", among=dict.fromkeys(family.quantised), default="")
    return family, settings


def architecture_of(family: Family, settings: Settings) -> Architecture:
    try:
        return family.architecture(settings)
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG}: {error}") from None


def rooted(plan: Iterator[Piece], root: str, weights: Weights) -> list[Piece]:
    """The plan, with the root taken off every name where the checkpoint is of the bare model, which has none."""
    if any(name.startswith(root) for name in weights.tensors):
        return list(plan)
    return [replace(piece, sources=tuple(name.removeprefix(root) for name in piece.sources)) for piece in plan]
