"""Dyno's own checkpoint: a folder of architecture.json, model.safetensors, tokenizer.json and card.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import fill
from model.checkpoint.error import CheckpointError as CheckpointError
from model.checkpoint.fill import Progress, silent
from model.checkpoint.piece import piece
from model.checkpoint.weights import SINGLE, Weights, read_json, write
from model.codec import architecture_from_dict, architecture_to_dict
from model.config import Architecture, ConfigError
from model.transformer import Transformer

ARCHITECTURE = "architecture.json"


def save(folder: Path, model: Transformer, card: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> None:
    """Write weights (in `dtype`), architecture and card."""
    folder.mkdir(parents=True, exist_ok=True)
    buffers = {name for name, _ in model.named_buffers()}
    tensors = {
        name: tensor.detach().to(torch.float32 if name in buffers else dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    write(folder / SINGLE, tensors)
    write_json(folder / ARCHITECTURE, architecture_to_dict(model.architecture))
    write_json(folder / "card.json", card)


def read_architecture(folder: Path) -> Architecture:
    try:
        return architecture_from_dict(read_json(folder / ARCHITECTURE))
    except ConfigError as error:
        raise CheckpointError(f"{ARCHITECTURE}: {error}") from None


def load(folder: Path, dtype: torch.dtype, progress: Progress = silent) -> Transformer:
    """The model of a folder, parameters in `dtype`, ready to run."""
    architecture = read_architecture(folder)
    names = fill.skeleton(architecture).state_dict()
    return fill.load(architecture, (piece(name, name) for name in names), Weights(folder), dtype, progress)


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
