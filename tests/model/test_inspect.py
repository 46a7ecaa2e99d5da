"""Architecture cards: what scripts read, and what people see in narrow and wide terminals."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from huggingface_hub import constants
from typer.testing import CliRunner

from model import describe, drawing, presets, toml, zoo
from model.checkpoint.error import CheckpointError
from model.codec import architecture_from_dict, architecture_to_dict, load_architecture
from model.config import ConfigError
from model.inspect import inspect
from model.naming import block_names
from model.operations import flops_per_token
from model.parameters import parameters

EVERY = pytest.mark.parametrize("name", presets.names())

app = typer.Typer()
app.command()(inspect)


def run(*arguments: str, columns: int = 80) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)}, catch_exceptions=True)


def cards(*arguments: str) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_what_scripts_rely_on() -> None:
    mixtral, deepseek = cards("mixtral-8x7b", "deepseek-v3")
    assert mixtral["name"] == "mixtral-8x7b"
    assert mixtral["parameters"] == {
        "total": 46_702_792_704,
        "active": 12_879_925_248,
        "active_without_embeddings": 12_617_781_248,
    }
    assert mixtral["cache_bytes_per_token"] == 131_072
    assert set(mixtral["flops_per_token"]) == {"1024", "32768"}
    assert mixtral["flops_per_token"]["1024"] == pytest.approx(26.03e9, rel=1e-3)
    assert architecture_from_dict(mixtral["architecture"]) == presets.load("mixtral-8x7b")
    assert deepseek["parameters"]["total"] == 671_026_404_352
    assert deepseek["published"]["active"] == 37_000_000_000
    assert sum(mixtral["parameters_by_part"].values()) == mixtral["parameters"]["total"]


def test_cache_and_operations_by_length_and_part() -> None:
    mistral, switch = cards("mistral-7b", "switch-base-8")
    assert mistral["cache_bytes"] == {"4096": 4096 * 131_072, "32768": 4096 * 131_072}, "its window holds 4,096"
    assert mistral["memory_bytes_per_token"] == 0
    assert switch["memory_bytes_per_token"] == 12 * 2 * 768 * 2, "keys and values of 12 layers, of 2 bytes each"
    for card in (mistral, switch):
        for length, parts in card["flops_by_part"].items():
            assert sum(parts.values()) == card["flops_per_token"][length]
        assert card["left_out_layers"] == 0


def test_layers_that_a_text_does_not_pass_are_told_and_not_active() -> None:
    (card,) = cards("llama-3.2-11b-vision")
    whole = presets.load("llama-3.2-11b-vision")
    text = replace(whole, blocks=tuple(block for block in whole.blocks if not block.needs_memory))
    assert card["left_out_layers"] == len(whole.blocks) - len(text.blocks) == 8
    assert card["parameters"]["total"] == 9_775_192_080
    assert card["parameters"]["active"] == parameters(text).total
    assert card["flops_per_token"]["1024"] == flops_per_token(text, 1024).total
    assert card["description"]["attention"].endswith("cross-attention in 8 layers, left out where there is no memory")
    said = run("llama-3.2-11b-vision", columns=140).stdout
    assert "8 layers, 1.74 B parameters" in said and "8.03 B (82.1%)" in said


def test_what_fits_into_a_memory() -> None:
    """Llama 3 8B: 8,030,261,248 weights of 2 bytes, 131,072 bytes of cache a token."""
    (card,) = cards("llama-3-8b", "--memory", "24")
    left = 24 * 2**30 - 2 * 8_030_261_248
    assert card["fits"] == {
        "memory_gib": 24.0,
        "length": 4096,
        "largest_batch": left // (4096 * 131_072),
        "largest_context": 8192,
    }
    assert "18 requests of 4,096, or one of 8,192, in 24 GiB" in " ".join(
        run("llama-3-8b", "--memory", "24", columns=140).stdout.split()
    )
    assert "4 GiB do not hold it" in run("llama-3-8b", "--memory", "4").stdout
    assert "fits" not in cards("llama-3-8b")[0]


def test_the_shortest_words_name_what_stands_beside() -> None:
    kinds = describe.kinds(presets.load("gemma-4-26b-a4b"))
    assert kinds == {
        "attention": "grouped-query",
        "position": "rotary",
        "feed_forward": "gated gelu + 8 of 128 experts",
    }
    assert describe.kinds(presets.load("gpt2"))["position"] == "learned"
    assert describe.kinds(presets.load("deepseek-v3"))["feed_forward"] == "gated silu + 8 of 256 experts, 1 shared"


@pytest.mark.parametrize(
    ("name", "part", "said"),
    [
        ("mixtral-8x7b", "experts", "softmax router, chosen weights made to sum to one"),
        ("deepseek-v3", "experts", "chosen weights made to sum to one, × 2.5, 4 of 8 groups, balanced by a bias"),
        ("deepseek-v2", "experts", "chosen weights as scored, × 16, 3 of 8 groups"),
        ("llama-4-scout", "experts", "sigmoid router, chosen weights as scored, on the input of experts"),
        ("llama-4-scout", "attention", "queries and keys normed per head after rotation"),
        ("qwen3-8b", "attention", "share 8 keys and values, queries and keys normed per head"),
        ("olmo-2-7b", "attention", "queries and keys normed over the width"),
        ("granite-3.0-1b-a400m", "head", "the embedding again, logits × 0.1667"),
        ("granite-3.0-1b-a400m", "embedding", "× 12"),
        ("bloom", "embedding", "layer norm"),
    ],
)
def test_what_tells_variants_apart_is_said(name: str, part: str, said: str) -> None:
    architecture = presets.load(name)
    words = describe.describe(architecture)[part]
    assert said in words
    drawn = " ".join("".join(" " if c in "│┌┐└┘├┤─" else c for c in "\n".join(drawing.draw(architecture))).split())
    assert said.split(", ")[0] in drawn


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("minimax-text-01", "80: (recurrent*7 global)*10"),
        (
            "nemotron-3-nano-30b-a3b",
            "52: (recurrent sparse recurrent sparse recurrent global sparse)*5 "
            "(recurrent sparse)*3 recurrent global (sparse recurrent)*4 sparse",
        ),
    ],
)
def test_layers_are_called_what_they_do(name: str, layers: str) -> None:
    """Those that differ by their depth alone have one name and one drawing."""
    architecture = presets.load(name)
    assert describe.layers(architecture) == layers
    assert len([line for line in drawing.draw(architecture) if line.startswith("─┼─ ")]) == len(
        {block.kind for block in architecture.blocks}
    )


def test_a_type_changes_bytes_only() -> None:
    (half,), (single,) = cards("llama-7b"), cards("llama-7b", "--dtype", "float32")
    assert single["cache_bytes_per_token"] == 2 * half["cache_bytes_per_token"]
    assert single["parameters"] == half["parameters"]


def test_a_scale_is_no_published_size() -> None:
    (tiny,) = cards("deepseek-v3", "--scale", "tiny")
    assert tiny["name"] == "deepseek-v3" and tiny["scale"] == "tiny" and tiny["published"] is None
    assert tiny["parameters"]["total"] < 10_000_000


@pytest.mark.parametrize("form", ["file.json", "file.toml", "folder"])
def test_architectures_that_are_files(form: str, tmp_path: Path) -> None:
    data = architecture_to_dict(presets.scaled(presets.load("mixtral"), "tiny"))
    path = tmp_path / form
    if form == "folder":
        path.mkdir()
        (path / "architecture.json").write_text(json.dumps(data))
    elif form == "file.json":
        path.write_text(json.dumps(data))
    else:
        path.write_text(toml.written(data))
    (card,) = cards(str(path))
    assert card["parameters"]["total"] == cards("mixtral", "--scale", "tiny")[0]["parameters"]["total"]


def test_a_folder_of_the_hub(tmp_path: Path) -> None:
    llama = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
    llama |= {"num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(llama))
    assert cards(str(tmp_path))[0]["parameters"]["total"] == 6_738_415_616


def test_blocks_are_called_what_their_file_calls_them(tmp_path: Path) -> None:
    data = architecture_to_dict(presets.scaled(presets.load("gemma2-2b"), "tiny"))
    data["blocks"] = {"mine": data["blocks"]["local"], "yours": data["blocks"]["global"]}
    data["layers"] = ["(mine yours)*2"]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(data))
    [found] = cards(str(path))
    assert found["description"]["layers"] == "4: (mine yours)*2"
    assert found["architecture"]["blocks"].keys() == {"mine", "yours"}
    assert "─┼─ mine × 2 ─" in run(str(path)).stdout
    assert cards(str(path), "--scale", "tiny")[0]["description"]["layers"] == "4: (local global)*2"


@EVERY
def test_a_preset_written_as_a_file_is_read_as_it_was(name: str) -> None:
    """Its blocks may be called other names than here, which hold letters that a bare key of TOML has not."""
    architecture = presets.load(name)
    names = {block: f"{short}.x" for block, short in block_names(architecture).items()}
    for called in (None, names):
        text = toml.written(architecture_to_dict(architecture, called))
        assert architecture_from_dict(tomllib.loads(text)) == architecture


def test_the_file_of_one_model_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(run("deepseek-v3", "--scale", "tiny", "--toml").stdout)
    assert load_architecture(path) == presets.scaled(presets.load("deepseek-v3"), "tiny")
    assert run(str(path), "--toml").stdout == path.read_text()
    for wrong in (["gpt2", "mixtral"], [], ["gpt2", "--json"]):
        assert "--toml writes one model" in str(run(*wrong, "--toml").exception)


def test_the_zoo_comes_before_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gpt2"
    folder.mkdir()
    (folder / "card.json").write_text("{}")
    (folder / "architecture.json").write_text(json.dumps(architecture_to_dict(presets.load("phi-2"))))
    monkeypatch.setattr(zoo, "HERE", tmp_path)
    assert cards("gpt2")[0]["parameters"]["total"] == 2_779_683_840


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gtp2"], "close ones are"),
        (["no/such/file.toml"], "file.toml: No such file or directory"),
        (["nosuch.json"], "nosuch.json: No such file or directory"),
        (["gpt2", "--memory", "-1"], "memory must be positive, got -1.0"),
        (["gpt2", "--scale", "huge"], "'huge' is not one of tiny"),
        (["gpt2", "--dtype", "int3"], "dtype: 'int3' is not one of float32"),
        (["tests"], "tests: neither architecture.json nor config.json in the folder"),
        (["some-org/no-model"], "some-org/no-model: not in the local cache, and the hub cannot be reached"),
    ],
)
def test_what_cannot_be_inspected(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = run(*arguments).exception
    assert isinstance(error, ConfigError | CheckpointError) and message in str(error)


def test_without_names_it_lists_them() -> None:
    assert run().stdout.split() == [*zoo.names(), *presets.names()]
    assert json.loads(run("--json").stdout)[-1] == presets.names()[-1]


# ---------------------------------------------------------------------------------------------- what people see


@pytest.mark.parametrize("columns", [80, 140])
def test_cards_stand_side_by_side_as_far_as_there_is_room(columns: int) -> None:
    names = ["gpt2-small", "mixtral-8x7b", "deepseek-v3"]
    lines = run(*names, columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    together = [line.split() for line in lines if line.split() and set(line.split()) <= set(names)]
    one, other = names[:2], names[2:]
    assert together == ([one, other, one, other] if columns == 80 else [names, names])
    text = "\n".join(lines)
    for figure in ("(124,439,808)", "12.9 B (27.6%)", "68.6 KiB", "experts 97%", "12: dense*12", "dense*3 sparse*58"):
        assert figure in text


def test_a_length_beyond_the_context_is_marked() -> None:
    text = " ".join(run("gpt2", columns=140).stdout.split())
    assert "GFLOP (beyond its context): scores 83%" in text and "MFLOP: feed-forward" in text


@EVERY
def test_every_model_can_be_drawn(name: str) -> None:
    architecture = presets.load(name)
    lines = drawing.draw(architecture)
    assert max(map(len, lines)) <= drawing.WIDTH
    stacks = [architecture.blocks, architecture.encoder.blocks if architecture.encoder else ()]
    distinct = [block for stack in stacks for block in dict.fromkeys(block.kind for block in stack)]
    assert sum(line.startswith("─┼─ ") for line in lines) == len(distinct)
    additions = sum(1 if block.parallel else len(block.branches) for block in distinct)
    assert sum("⊕" in line for line in lines) == additions
    assert all(describe.describe(architecture)[key] for key in ("attention", "position", "layers"))


def drawn(name: str) -> str:
    return "\n".join(drawing.draw_block(presets.load(name).blocks[-1]))


def test_a_serial_block() -> None:
    assert (
        drawn("llama-7b")
        == (
            """
 │
 ├──▶ RMS norm
 │    ┌────────────────────────────┐
 │    │ multi-head attention       │
 │    │ 32 heads of 128            │
 │    │ rotary, base 10,000        │
 │    │ sees everything before     │
 │    │ caches 8,192 numbers       ├─┐
 │    └────────────────────────────┘ │
 ⊕◀──────────────────────────────────┘
 │
 ├──▶ RMS norm
 │    ┌────────────────────────────┐
 │    │ feed-forward               │
 │    │ gated silu, 11,008 wide    ├─┐
 │    └────────────────────────────┘ │
 ⊕◀──────────────────────────────────┘
 │"""[1:]
        )
    )


def test_a_parallel_block_with_one_norm() -> None:
    assert (
        drawn("falcon-7b")
        == (
            """
 │
 ├──▶ layer norm
 │  │ ┌────────────────────────────┐
 │  ├▶│ multi-query attention      │
 │  │ │ 71 heads of 64 share 1 key │
 │  │ │   and value                │
 │  │ │ rotary, base 10,000        │
 │  │ │ sees everything before     │
 │  │ │ caches 128 numbers         ├─┐
 │  │ └────────────────────────────┘ │
 │  │ ┌────────────────────────────┐ │
 │  └▶│ feed-forward               │ │
 │    │ gelu, 18,176 wide          ├─┤
 │    └────────────────────────────┘ │
 ⊕◀──────────────────────────────────┘
 │"""[1:]
        )
    )


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gemma-2-2b", " ⊕◀─ RMS norm ◀──────────────────────┘"),
        ("olmo-2-7b", " ├───▶│ multi-head attention       │"),
        ("transformer", " ⊕◀──────────────────────────────────┘\n │\n ▼ layer norm\n │"),
        ("granite-moe", " ⊕◀─ × 0.22 ◀────────────────────────┘"),
        ("gpt-neox-20b", " │  ├▶ layer norm"),
        ("mixtral", " │    │ ■■□□□□□□                   │"),
        ("deepseek-v3", " │    │ + shared expert 2,048 wide │"),
        ("llama-3.2-vision", " │    │ caches 2,048 numbers       ├─┐"),
    ],
)
def test_what_is_special_is_drawn(name: str, part: str) -> None:
    assert part in drawn(name)
