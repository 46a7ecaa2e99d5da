"""A directory becomes ours and comes back; what ours can say and a directory cannot is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.testing import CliRunner

from model.__main__ import app
from model.checkpoint import export, native
from model.checkpoint.convert import convert
from model.checkpoint.error import CheckpointError
from model.checkpoint.loading import load_any
from model.config import (
    Architecture,
    Attention,
    Block,
    FeedForward,
    Grouped,
    Head,
    MoE,
    Norm,
    Rotary,
    Router,
    RouterLoss,
)
from tests.model.checkpoint.test_loading import assert_equal, write_tokenizer
from tests.model.checkpoint.tiny import draw_tokens, edit_json, logits_of, tiny_model
from tests.model.randomise import random_model

BACK = (
    "llama",
    "llama, llama3",
    "llama, linear",
    "mistral",
    "mixtral",
    "mixtral, window",
    "qwen2",
    "qwen3",
    "qwen3_moe",
)


@pytest.mark.parametrize("case", BACK)
def test_there_and_back(case: str, tmp_path: Path) -> None:
    reference = tiny_model(case)
    reference.save_pretrained(tmp_path / "theirs")
    assert convert(tmp_path / "theirs", tmp_path / "ours") == ("dyno", torch.float32)
    assert convert(tmp_path / "ours", tmp_path / "back") == (reference.config.model_type, torch.float32)
    first, last = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "back"))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", attn_implementation="eager", experts_implementation="eager"
    )
    tokens = draw_tokens(97)
    assert torch.equal(logits_of(again.requires_grad_(False), tokens), logits_of(reference, tokens))


def test_every_file_is_for_whom_new_files_are(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "theirs")
    before = os.umask(0o027)
    try:
        convert(tmp_path / "theirs", tmp_path / "ours")
        convert(tmp_path / "ours", tmp_path / "back")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for way in ("ours", "back") for path in (tmp_path / way).iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {0o640}


@pytest.mark.parametrize("case", ["gpt2", "deepseek_v3", "gpt_oss", "gemma2", "stablelm, qk norm", "falcon, alibi"])
def test_every_family_becomes_ours(case: str, tmp_path: Path) -> None:
    reference = tiny_model(case)
    reference.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert_equal(load_any(tmp_path / "ours", torch.float32).model, reference)


def test_the_stored_type_is_kept_unless_told(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    assert convert(tmp_path / "theirs", tmp_path / "a")[1] == torch.bfloat16
    assert convert(tmp_path / "theirs", tmp_path / "b", torch.float16)[1] == torch.float16
    stored = load_file(tmp_path / "b" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_tokenizer_and_end_tokens_go_along(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "theirs")
    write_tokenizer(tmp_path / "theirs")
    edit_json(tmp_path / "theirs" / "config.json", eos_token_id=[4, 6])
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    for folder in ("theirs", "ours", "back"):
        tokenizer = load_any(tmp_path / folder, torch.float32).tokenizer
        assert tokenizer is not None
        assert tokenizer.chat
        assert tokenizer.eos_ids == {2, 4, 6, 90}, folder


def small(**changes: object) -> Architecture:
    block = Block((Attention(Grouped(4, 2, 6), Rotary()), FeedForward(20)))
    return replace(Architecture(33, 24, 16, (block,) * 2, head=Head(tied=True)), **changes)  # type: ignore[arg-type]


def test_what_only_training_knows_is_left_out() -> None:
    sparse = MoE(4, 2, FeedForward(10), Router(loss=RouterLoss(balance=0.01, z=0.001)))
    block = Block((Attention(Grouped(4, 2, 6), Rotary()), sparse))
    assert export.describe(small(blocks=(block,)))["model_type"] == "mixtral"


OTHERWISE = {
    "layer norm": small(norm=Norm("layer")),
    "no rotation": small(blocks=(Block((Attention(Grouped(4, 2, 6)), FeedForward(20))),)),
    "two kinds of blocks": small(
        blocks=(*small().blocks, Block((Attention(Grouped(4, 1, 6), Rotary()), FeedForward(20))))
    ),
    "one branch": small(blocks=(Block((FeedForward(20),)),)),
    "parallel branches": small(blocks=(replace(small().blocks[0], parallel=True),)),
    "not gated": small(blocks=(Block((Attention(Grouped(4, 2, 6), Rotary()), FeedForward(20, gated=False))),)),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_a_directory_cannot_say_is_refused(name: str, tmp_path: Path) -> None:
    native.save(tmp_path / "ours", random_model(OTHERWISE[name]), {})
    with pytest.raises(
        CheckpointError, match=r"^none of the layouts llama, mistral, .* can say what this architecture is"
    ):
        convert(tmp_path / "ours", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_large_models_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 3000)
    model = random_model(small())
    native.save(tmp_path / "ours", model, {}, torch.float32)
    convert(tmp_path / "ours", tmp_path / "theirs")
    index = json.loads((tmp_path / "theirs" / "model.safetensors.index.json").read_text())
    files = {file.name for file in (tmp_path / "theirs").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files
    assert len(files) > 3
    loaded = load_any(tmp_path / "theirs", torch.float32).model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=r"^theirs: there is something there already$"):
        convert(tmp_path / "theirs", tmp_path / "theirs")


def test_the_command(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "theirs")
    result = CliRunner().invoke(
        app, ["convert", str(tmp_path / "theirs"), str(tmp_path / "ours"), "--dtype", "bfloat16"]
    )
    assert result.exit_code == 0, result.output
    assert result.output.replace("\n", "").endswith("ours: dyno, bfloat16")
    assert load_any(tmp_path / "ours", torch.bfloat16).model.embedding.weight.dtype == torch.bfloat16
