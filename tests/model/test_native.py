"""Dyno's own checkpoints: what was saved comes back, and whatever is wrong with a folder is said by the file's name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import native
from model.checkpoint.native import CheckpointError
from model.config import Architecture
from model.dense import dense_input
from model.reference import logits_of
from model.transformer import Transformer
from tests.model.cases import CASES, MIXED_CASES
from tests.model.randomise import random_model, random_tokens

SPARSE = CASES["experts: groups and correction"]
MIXED = pytest.mark.parametrize("architecture", MIXED_CASES.values(), ids=MIXED_CASES.keys())


def logits(model: Transformer, tokens: tuple[int, ...]) -> Tensor:
    found: Tensor = model(dense_input(model.architecture, torch.tensor([tokens]))).logits
    return found


@MIXED
def test_what_was_saved_comes_back_to_the_bit(architecture: Architecture, tmp_path: Path) -> None:
    model = random_model(architecture)
    native.save(tmp_path, model, {"name": "x"}, torch.float32)
    loaded = native.load(tmp_path, torch.float32)
    assert loaded.architecture == architecture
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    tokens = random_tokens(architecture, 12, seed=0)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens)), "what is not stored is built the same"
    assert json.loads((tmp_path / "card.json").read_text()) == {"name": "x"}


def test_parameters_are_stored_in_bfloat16_and_buffers_are_not(tmp_path: Path) -> None:
    """A correction moves in steps of 0.001, which bfloat16 would swallow."""
    native.save(tmp_path, random_model(SPARSE), {})
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert tensor.dtype == (torch.float32 if name.endswith("correction") else torch.bfloat16), name
    for dtype in (torch.float32, torch.bfloat16):
        loaded = native.load(tmp_path, dtype)
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        assert {b.dtype for b in loaded.buffers()} == {torch.float32}, "positions and corrections stay exact"


# bfloat16 has 8 bits of precision. Measured, of the largest logit: a mean error of 0.1 to 0.3 %, and single logits off
# by up to 6 %, where two experts or a soft cap stand on an edge.
MEAN, MOST = 0.005, 0.03


@MIXED
def test_bfloat16_stays_near_the_reference(architecture: Architecture, tmp_path: Path) -> None:
    native.save(tmp_path, random_model(architecture), {})
    loaded = native.load(tmp_path, torch.bfloat16)
    tokens = random_tokens(architecture, 24, seed=0)
    expected, _ = logits_of(loaded, tokens)
    error = (logits(loaded, tokens) - expected).abs() / expected.abs().max()
    assert error.mean() < MEAN and error.quantile(0.99) < MOST


# ---------------------------------------------------------------------------------------------- what is wrong


def with_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def truncated(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return apply


def written(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (with_tensors(lambda t: t.pop("norm.weight")), "model.safetensors: … missing tensor … norm.weight"),
        (with_tensors(lambda t: t.update(x=torch.zeros(1))), "model.safetensors: … surplus tensor … x"),
        (
            with_tensors(lambda t: t.update({"norm.weight": torch.zeros(3)})),
            "model.safetensors: norm.weight has shape (3,), the architecture asks for (28,)",
        ),
        (with_tensors(lambda t: t.update({"norm.weight": torch.zeros(28).int()})), "model.safetensors: norm.weight is"),
        (truncated("model.safetensors"), "model.safetensors: "),
        (written("model.safetensors", ""), "model.safetensors: "),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "architecture.json").unlink(), "architecture.json: "),
        (truncated("architecture.json"), "architecture.json: "),
        (written("architecture.json", "[]"), "architecture.json: "),
        (written("architecture.json", '{"vocab": "x", "blocks": {}}'), "architecture.json: "),
    ],
    ids=["missing", "surplus", "shape", "type", "truncated", "empty", "no weights", "no architecture", "half of it",
         "a list", "a wrong one"],
)  # fmt: skip
def test_a_broken_folder_is_a_checkpoint_error_that_names_the_file(
    harm: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    native.save(tmp_path, random_model(SPARSE), {})
    harm(tmp_path)
    with pytest.raises(CheckpointError) as error:
        native.load(tmp_path, torch.float32)
    assert re.search(".*".join(map(re.escape, message.split(" … "))), str(error.value))
    assert str(tmp_path) not in str(error.value), "where the folder lies is nobody's business but the user's"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        native.load(tmp_path / "nowhere", torch.float32)
