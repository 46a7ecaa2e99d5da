"""gpt-oss as it is published: experts in MXFP4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from model.checkpoint import huggingface
from model.checkpoint.changes import Mxfp4
from model.checkpoint.error import CheckpointError
from model.dense import dense_input
from tests.model.checkpoint.tiny import draw_tokens, edit_json, logits_of, tiny_model

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_local_experts": 3}
QUANTISATION = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def test_values_by_hand() -> None:
    blocks = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0, :4] = torch.tensor([0x10, 0x72, 0x9F, 0x8A])  # lower half first
    scales = torch.tensor([[[128]]], dtype=torch.uint8)  # times 2
    found = Mxfp4(0, 1)(blocks, scales)[0, :8]
    assert found.tolist() == [0.0, 1.0, 2.0, 12.0, -12.0, -1.0, -2.0, -0.0]


def test_rows_of_one_expert() -> None:
    blocks = torch.randint(256, (3, 8, 2, 16), dtype=torch.uint8)
    scales = torch.randint(100, 140, (3, 8, 2), dtype=torch.uint8)
    whole = Mxfp4(1, 3)(blocks, scales)
    assert whole.shape == (8, 64)
    assert Mxfp4(1, 3).shapes((8, 64)) == ((3, 8, 2, 16), (3, 8, 2))
    assert torch.equal(Mxfp4(1, 3, first=1, step=2)(blocks, scales), whole[1::2])
    assert Mxfp4(1, 3, first=1, step=2).shapes((4, 64)) == ((3, 8, 2, 16), (3, 8, 2))


def draw(generator: torch.Generator, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Blocks and scales of three experts, around 0.1."""
    shape = (3, rows, columns // 32)
    blocks = torch.randint(256, (*shape, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(121, 125, shape, generator=generator, dtype=torch.uint8)


def quantise(reference: Any, folder: Path) -> None:
    """Give the reference experts that MXFP4 can say, and write them that way."""
    reference.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for i, layer in enumerate(reference.model.layers):
        for name, rows, columns in (("gate_up_proj", 192, 64), ("down_proj", 64, 96)):
            blocks, scales = draw(generator, rows, columns)
            getattr(layer.mlp.experts, name).copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            stored = f"model.layers.{i}.mlp.experts.{name}"
            tensors |= {f"{stored}_blocks": blocks, f"{stored}_scales": scales}
            del tensors[stored]
    save_file(tensors, folder / "model.safetensors")
    edit_json(folder / "config.json", quantization_config=QUANTISATION)


def test_logits_equal_the_reference(tmp_path: Path) -> None:
    reference = tiny_model("gpt_oss", **SIZES)
    quantise(reference, tmp_path)
    tokens = draw_tokens(97)
    expected = logits_of(reference, tokens)
    ours = huggingface.load(tmp_path, torch.float32)
    with torch.inference_mode():
        found = ours(dense_input(ours.architecture, tokens)).logits.view(expected.shape)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_blocks_of_another_size(tmp_path: Path) -> None:
    quantise(tiny_model("gpt_oss", **SIZES), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.2.mlp.experts.down_proj_scales"
    save_file(tensors | {name: tensors[name][:, :-1].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=rf"{name} has shape \(3, 63, 3\), the architecture asks for \(3, 64, 3\)"
    ):
        huggingface.load(tmp_path, torch.float32)


@pytest.mark.parametrize("case", ["llama", "gpt_oss"])
def test_other_quantisations_are_refused(case: str, tmp_path: Path) -> None:
    tiny_model(case).save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(CheckpointError, match=r"quantization_config\.quant_method='fp8': not supported"):
        huggingface.load(tmp_path, torch.float32)
