"""Everything that can be wrong with a folder is one CheckpointError that names the file and the fault."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint.error import CheckpointError
from model.checkpoint.loading import load_any, read_architecture
from tests.model.checkpoint.tiny import edit_json, tiny_model

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "one"
    tiny_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "many"
    tiny_model("llama").save_pretrained(folder, max_shard_size="60KB")
    return folder


def refusal(path: Path | str) -> str:
    """Why a checkpoint is refused: one line, without the place of the folder."""
    with pytest.raises(CheckpointError) as caught:
        load_any(path, torch.float32)
    message = str(caught.value)
    assert "\n" not in message
    assert "pytest" not in message  # every folder here lies under pytest's own
    assert caught.value.__cause__ is None
    return message


def damaged(source: Path, target: Path, damage: Damage) -> str:
    shutil.copytree(source, target / "copy")
    damage(target / "copy")
    return refusal(target / "copy")


def change(**tensors: torch.Tensor | None) -> Damage:
    """Replace or (None) take out tensors; a double underscore in a name is a dot."""

    def damage(folder: Path) -> None:
        stored: dict[str, Any] = load_file(folder / WEIGHTS)
        stored |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, folder / WEIGHTS)

    return damage


def cut(bytes_kept: int) -> Damage:
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:bytes_kept])


def overwrite(name: str, content: bytes | str) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def rename(source: str, target: str) -> Damage:
    return lambda folder: (folder / source).rename(folder / target)


def config(**changes: Any) -> Damage:
    return lambda folder: edit_json(folder / CONFIG, **changes)


def rope(**table: Any) -> Damage:
    return config(rope_parameters=table)


NORM = "model__layers__2__input_layernorm__weight"
ONE_FILE: dict[str, tuple[Damage, str]] = {
    "tensor missing": (
        change(**{NORM: None}),
        "model.safetensors: missing tensor model.layers.2.input_layernorm.weight",
    ),
    "tensor surplus": (
        change(model__layers__2__extra__weight=torch.ones(2)),
        "model.safetensors: surplus tensor model.layers.2.extra.weight",
    ),
    "a layer too many": (
        config(num_hidden_layers=3),
        "model.safetensors: surplus tensor model.layers.3.input_layernorm.weight and 8 more",
    ),
    "a bias too many": (
        change(model__layers__0__self_attn__q_proj__bias=torch.ones(60)),
        "model.safetensors: surplus tensor model.layers.0.self_attn.q_proj.bias",
    ),
    "wrong shape": (
        change(**{NORM: torch.ones(41)}),
        "model.safetensors: model.layers.2.input_layernorm.weight has shape (41,), the architecture asks for (42,)",
    ),
    "another size in the configuration": (
        config(intermediate_size=51),
        "model.safetensors: model.layers.0.mlp.gate_proj.weight has shape (50, 42), the architecture asks for (51, 42)",
    ),
    "whole numbers": (
        change(**{NORM: torch.ones(42, dtype=torch.int8)}),
        "model.safetensors: model.layers.2.input_layernorm.weight is stored as I8; taken are BF16, F16, F32, F64",
    ),
    "truncated": (cut(100_000), "model.safetensors: Error while deserializing header: incomplete metadata"),
    "header cut": (cut(100), "model.safetensors: Error while deserializing header"),
    "empty file": (cut(0), "model.safetensors: Error while deserializing header"),
    "header too large": (
        overwrite(WEIGHTS, struct.pack("<Q", 1 << 40) + b"{}"),
        "model.safetensors: Error while deserializing header: header too large",
    ),
    "header not JSON": (
        overwrite(WEIGHTS, struct.pack("<Q", 8) + b"notjson!"),
        "model.safetensors: Error while deserializing header",
    ),
    "pickled": (
        rename(WEIGHTS, "pytorch_model.bin"),
        "pytorch_model.bin: pickled weights can run code and are never read; convert them to safetensors",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"no {WEIGHTS} and no {INDEX} in the folder"),
    "two files without an index": (
        lambda folder: (
            shutil.copy(folder / WEIGHTS, folder / "a.safetensors"),
            (folder / WEIGHTS).rename(folder / "b.safetensors"),
        ),
        f"2 .safetensors files and no {INDEX} that says which belong together",
    ),
    "no configuration": (
        lambda folder: (folder / CONFIG).unlink(),
        "copy: neither architecture.json nor config.json in the folder",
    ),
    "configuration cut": (overwrite(CONFIG, '{"model_type": "lla'), "config.json: Unterminated string"),
    "configuration not an object": (overwrite(CONFIG, "[1]"), "config.json: a JSON object is needed"),
    "configuration not text": (overwrite(CONFIG, b"\xff\xfe"), "config.json: 'utf-8' codec can't decode"),
    "configuration too deep": (overwrite(CONFIG, "[" * 100_000), "config.json: "),
    "no model type": (config(model_type=None), "config.json: model_type is missing"),
    "unknown model type": (
        config(model_type="mamba", auto_map={"AutoModelForCausalLM": "modeling.Model"}),
        "config.json: model_type='mamba': not supported; known are 'bailing_hybrid', 'bloom', 'cohere'",
    ),
    "model type not a word": (config(model_type=["llama"]), "config.json: model_type=['llama']: not supported"),
    "a real number that is none": (
        config(rms_norm_eps=10**400),
        "config.json: rms_norm_eps=1000000000",
    ),
    "an infinite number": (config(rms_norm_eps=float("inf")), "config.json: rms_norm_eps=inf: it must be from -1e+30"),
    "size missing": (config(hidden_size=None), "config.json: hidden_size is missing"),
    "size not a number": (config(hidden_size="42"), "config.json: hidden_size='42': a whole number is needed"),
    "size broken": (config(hidden_size=42.5), "config.json: hidden_size=42.5: a whole number is needed"),
    "size negative": (config(vocab_size=-1), "config.json: vocab_size=-1: it must be from 1 to 16777216"),
    "size absurd": (config(vocab_size=10**18), "config.json: vocab_size=1000000000000000000: it must be from 1 to"),
    "sizes absurd together": (
        config(vocab_size=2**24, hidden_size=2**24, intermediate_size=2**24),
        "model.safetensors: model.embed_tokens.weight has shape (97, 42), the architecture asks for (16777216, 1",
    ),
    "layers absurd": (config(num_hidden_layers=10**6), "config.json: num_hidden_layers=1000000: it must be from 1 to"),
    "no layers": (config(num_hidden_layers=0), "config.json: num_hidden_layers=0: it must be from 1 to 4096"),
    "no heads": (
        config(num_attention_heads=0, head_dim=None),
        "config.json: num_attention_heads=0: it must be from 1 to 65536",
    ),
    "no width of a head": (config(head_dim=0), "config.json: head_dim=0: it must be from 1 to 16777216"),
    "an epsilon of zero": (config(rms_norm_eps=0), "config.json: rms_norm_eps=0: it must be positive"),
    "quantised": (
        config(quantization_config={"quant_method": "awq"}),
        "config.json: quantization_config.quant_method='awq': not supported with this model_type",
    ),
    "broken beside a tokenizer": (
        lambda folder: (overwrite(CONFIG, "{")(folder), overwrite("tokenizer.json", "{}")(folder)),
        "config.json: Expecting property name",
    ),
    "heads that do not divide": (
        config(num_attention_heads=5, head_dim=None),
        "config.json: num_attention_heads=5: it does not divide the width 42",
    ),
    "key heads that do not divide": (
        config(num_key_value_heads=4),
        "config.json: num_key_value_heads=4: it does not divide num_attention_heads=6",
    ),
    "flag not a flag": (config(tie_word_embeddings="no"), "config.json: tie_word_embeddings='no': true or false is"),
    "unknown activation": (
        config(hidden_act="xielu"),
        "config.json: hidden_act='xielu': not supported; known are 'relu', 'relu2', 'gelu'",
    ),
    "unknown rotation": (
        rope(rope_type="longrope", short_factor=[1.0], long_factor=[2.0]),
        "config.json: rope_parameters.rope_type='longrope': not supported; known are 'default', 'dynamic', 'linear'",
    ),
    "unknown rotation, older key": (
        config(rope_scaling={"type": "su"}),
        "config.json: rope_scaling.type='su': not supported",
    ),
    "rotation not an object": (config(rope_scaling=[2]), "config.json: rope_scaling=[2]: an object is needed"),
    "factor missing": (rope(rope_type="linear"), "config.json: rope_parameters.factor is missing"),
    "factor zero": (rope(rope_type="linear", factor=0), "config.json: rope_parameters.factor=0: it must be positive"),
    "factor not a number": (
        rope(rope_type="yarn", factor="4"),
        "config.json: rope_parameters.factor='4': a number is needed",
    ),
    "a part of each head": (
        rope(rope_theta=1e4, partial_rotary_factor=0.5),
        "config.json: rope_parameters.partial_rotary_factor=0.5: not supported; only 1",
    ),
    "a rotation for each kind of layer": (
        rope(full_attention={"rope_type": "default"}),
        "config.json: rope_parameters.full_attention={'rope_type': 'default'}: not supported",
    ),
    "long values are cut": (config(hidden_act="x" * 10_000), "config.json: hidden_act='" + "x" * 76 + "...: not"),
    "tokenizer broken": (overwrite("tokenizer.json", "{}"), "tokenizer.json and its settings: "),
    "tokenizer's settings broken": (
        lambda folder: (
            tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(folder / "tokenizer.json")),
            overwrite("tokenizer_config.json", "{")(folder),
        ),
        "tokenizer.json and its settings: tokenizer_config.json: Expecting property name",
    ),
    "tokenizer in another form": (
        overwrite("tokenizer.model", "x"),
        "tokenizer.model: only tokenizer.json is read; save the tokenizer in its fast form",
    ),
}


@pytest.mark.parametrize("name", ONE_FILE)
def test_one_file(name: str, whole: Path, tmp_path: Path) -> None:
    damage, expected = ONE_FILE[name]
    message = damaged(whole, tmp_path, damage)
    assert message.startswith(expected), message
    assert len(message) < 1000


def index(change: Callable[[dict[str, str]], object]) -> Damage:
    """Change the index's map of tensors to files."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / INDEX).read_text())
        change(data["weight_map"])
        (folder / INDEX).write_text(json.dumps(data))

    return damage


def moved(place: Any) -> Damage:
    return index(lambda places: places.update({"lm_head.weight": place}))


NOT_A_NAME = "is not the name of a .safetensors file in the folder"
SEVERAL_FILES: dict[str, tuple[Damage, str]] = {
    "shard missing": (
        lambda folder: sorted(folder.glob("*.safetensors"))[1].unlink(),
        f"{INDEX}: the shard model-00002-of-",
    ),
    "shard truncated": (
        lambda folder: (folder / "model-00002-of-00005.safetensors").write_bytes(b"12345678"),
        "model-00002-of-00005.safetensors: Error while deserializing header",
    ),
    "shard above": (moved("../model.safetensors"), f"{INDEX}: '../model.safetensors' {NOT_A_NAME}"),
    "shard elsewhere": (moved("/etc/model.safetensors"), f"{INDEX}: '/etc/model.safetensors' {NOT_A_NAME}"),
    "shard below": (moved("sub/model.safetensors"), f"{INDEX}: 'sub/model.safetensors' {NOT_A_NAME}"),
    "shard the folder": (moved(".."), f"{INDEX}: '..' {NOT_A_NAME}"),
    "shard pickled": (moved("pytorch_model.bin"), f"{INDEX}: 'pytorch_model.bin' {NOT_A_NAME}"),
    "shard not a name": (moved(3), f"{INDEX}: weight_map must say for every tensor which file it is in"),
    "index without tensors": (
        index(lambda places: places.clear()),
        f"{INDEX}: weight_map must say for every tensor which file it is in",
    ),
    "index not JSON": (overwrite(INDEX, "{"), f"{INDEX}: Expecting property name"),
    "tensor in no shard": (
        index(lambda places: places.update({"model.other.weight": places["lm_head.weight"]})),
        f"{INDEX}: no shard holds the tensor model.other.weight",
    ),
    "tensor in two shards": (
        lambda folder: shutil.copy(
            folder / "model-00001-of-00005.safetensors", folder / "model-00002-of-00005.safetensors"
        ),
        "model-00002-of-00005.safetensors: ",
    ),
}


@pytest.mark.parametrize("name", SEVERAL_FILES)
def test_several_files(name: str, sharded: Path, tmp_path: Path) -> None:
    damage, expected = SEVERAL_FILES[name]
    assert len(list(sharded.glob("*.safetensors"))) == 5
    assert damaged(sharded, tmp_path, damage).startswith(expected)


PLACES = {
    "model.bin": "model.bin: pickled weights can run code and are never read; convert them to safetensors",
    "model.safetensors": "model.safetensors: a checkpoint is a folder, this is a file",
}


@pytest.mark.parametrize("name", PLACES)
def test_a_file_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert refusal(tmp_path / name) == PLACES[name]


@pytest.mark.parametrize("name", ["nothing-here", "a/b/c", "../up", "org/..", "org/na me", "", "org/name\n"])
def test_neither_a_folder_nor_a_name(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder, and not a name of the form org/name"):
        load_any(name or "missing", torch.float32)


def test_code_in_a_folder_is_never_run(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')"
    for name in ("modeling.py", "configuration.py", "tokenization.py", "__init__.py"):
        (folder / name).write_text(trap)
    edit_json(
        folder / CONFIG,
        auto_map={"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"},
        trust_remote_code=True,
        custom_pipelines={"x": {"impl": "modeling.Model"}},
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["tokenization.T", None]}}))
    load_any(folder, torch.float32)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_of_ours_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "architecture.json").write_text(json.dumps({"vocab": 5, "width": 4, "context": 8, "blocks": {}}))
    with pytest.raises(CheckpointError, match=r"^architecture\.json: layers: "):
        read_architecture(tmp_path)
