"""Dyno's own checkpoint: a folder of architecture.json, model.safetensors, tokenizer.json and card.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model.codec import architecture_from_dict, architecture_to_dict
from model.config import Architecture
from model.transformer import Transformer


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


def save(folder: Path, model: Transformer, card: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> None:
    """Write weights (in `dtype`), architecture and card."""
    folder.mkdir(parents=True, exist_ok=True)
    buffers = {name for name, _ in model.named_buffers()}
    tensors = {
        name: tensor.detach().to(torch.float32 if name in buffers else dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "architecture.json", architecture_to_dict(model.architecture))
    write_json(folder / "card.json", card)


def read_architecture(folder: Path) -> Architecture:
    return architecture_from_dict(json.loads((folder / "architecture.json").read_text()))


def load(folder: Path, dtype: torch.dtype) -> Transformer:
    """The model of a folder, parameters in `dtype`, ready to run."""
    with torch.device("meta"):
        model = Transformer(read_architecture(folder))
    model.load_state_dict(read_tensors(folder / "model.safetensors", model, dtype), assign=True)
    return model.eval().requires_grad_(False)


def read_tensors(path: Path, model: Transformer, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every tensor the model asks for, names and shapes checked; parameters in `dtype`, buffers in float32."""
    wanted = model.state_dict()
    parameters = {name for name, _ in model.named_parameters()}
    try:
        with safe_open(path, framework="pt") as file:
            _compare_names(path, set(file.keys()), set(wanted))
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, the architecture asks for {tuple(wanted[name].shape)}"
            raise CheckpointError(f"{path.name}: {name} has shape {shapes}")
    return {name: tensor.to(dtype if name in parameters else torch.float32) for name, tensor in tensors.items()}


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _compare_names(path: Path, found: set[str], wanted: set[str]) -> None:
    for kind, names in (("missing", wanted - found), ("surplus", found - wanted)):
        if names:
            raise CheckpointError(f"{path.name}: {len(names)} {kind} tensors, the first is {min(names)}")
