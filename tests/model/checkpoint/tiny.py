"""Tiny models of the reference library with every number drawn, saved as it saves them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model.checkpoint.cases import CASES

CONSTANT = ("slope_rate", "_decay")  # buffers that the configuration tells

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def tiny_model(case: str, seed: int = 0, **changes: Any) -> Any:
    """The reference's model of a case, eager, float32, every parameter and persistent buffer random."""
    kind, settings = CASES[case]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.nn.init")  # empty tensors
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, f"{kind}Config")(**settings | changes),
            # Eager Falcon adds ALiBi twice, in its mask and again in its attention.
            attn_implementation="sdpa" if settings.get("alibi") else "eager",
            experts_implementation="eager",
        )
    return randomised(model.eval().requires_grad_(False), seed)


def randomised(model: Any, seed: int) -> Any:
    """Vectors around 0.5, matrices of more than unit gain: nothing is so small that a mistake hides behind it. States
    decay slowly: the reference adds the logarithms up, which takes digits from fast ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith(CONSTANT):
            continue
        scale, shift = (0.7, 0.5) if tensor.dim() == 1 else (1.5 * tensor.shape[-1] ** -0.5, 0)
        if "emb" in name and tensor.dim() > 1:
            scale = 1.0
        if name.endswith("A_log"):
            scale, shift = 0.7, -1.5
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + shift)
    return model


def save(model: Any, folder: Path) -> None:
    """As the reference saves it, but for names that it gives other tensors than the published files do."""
    model.save_pretrained(folder)
    renamed = RENAMED.get(model.config.model_type)
    if renamed is not None:
        stored = load_file(folder / "model.safetensors")
        named = {renamed(name, stored): tensor for name, tensor in stored.items()}
        save_file(named, folder / "model.safetensors", {"format": "pt"})


def of_dense_layers(name: str, stored: Mapping[str, Tensor]) -> str:
    """Where experts are in block_sparse_moe, dense layers still have mlp."""
    return re.sub(r"block_sparse_moe\.(gate|up|down)_proj", r"mlp.\1_proj", name)


def of_recurrent_layers(name: str, stored: Mapping[str, Tensor]) -> str:
    """The last projection of a layer with a state is o_proj, of one that attends dense."""
    recurrent = f"{name.partition('.attention.')[0]}.attention.A_log" in stored
    return name.replace("attention.dense.", "attention.o_proj.") if recurrent else name


RENAMED = {"kimi_linear": of_dense_layers, "bailing_hybrid": of_recurrent_layers}


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    """(texts, length, vocab) of the reference, without its cache."""
    logits: Tensor = model(tokens, use_cache=False).logits
    return logits


def draw_tokens(vocab: int, texts: int = 2, length: int = 19, seed: int = 0) -> Tensor:
    return torch.randint(vocab, (texts, length), generator=torch.Generator().manual_seed(seed))


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
