"""Architectures as data: every one comes back, and what is wrong is named by its path."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import schema
from model.codec import architecture_from_dict, architecture_to_dict, decode, load_architecture
from model.config import (
    Architecture,
    Attention,
    Block,
    Buckets,
    ConfigError,
    CrossAttention,
    Encoder,
    FeedForward,
    Grouped,
    Indexer,
    Latent,
    MoE,
    ProportionalScaling,
    Rotary,
    Router,
    RouterLoss,
    Window,
)
from tests.model.cases import CASES, LATENT

LOCAL = Block((Attention(Grouped(2, 1, 4), Rotary(), Window(3)), FeedForward(8)))
GLOBAL = Block((Attention(Grouped(2, 1, 4)), FeedForward(8)))
BEYOND = {
    "encoder": Architecture(
        9, 8, 16, (Block((Attention(Grouped(2, 2, 4), Buckets()), CrossAttention(Grouped(2, 1, 4)), FeedForward(8))),),
        encoder=Encoder((GLOBAL, GLOBAL, Block((FeedForward(8),))), norm=None),
    ),
    "indexer": Architecture(9, 8, 16, (Block((Attention(LATENT, Rotary(), indexer=Indexer(2, 6, 4)),)),)),
    "proportional": Architecture(
        9, 8, 16, (Block((Attention(Grouped(1, 1, 8), Rotary(fraction=0.5, scaling=ProportionalScaling(2.0))),)),)
    ),
    "losses": Architecture(
        9, 8, 16, (Block((MoE(2, 1, FeedForward(3), Router(loss=RouterLoss(0.1, 0.2, 0.3, 0.4))),)),)
    ),
    "local and global": Architecture(9, 8, 16, ((LOCAL,) * 5 + (GLOBAL,)) * 4 + (LOCAL,) * 2),
    "latent alone": Architecture(9, 8, 16, (Block((Attention(Latent(1, 4, 4, 0, 4)),)),)),
}  # fmt: skip


@pytest.mark.parametrize("architecture", [*CASES.values(), *BEYOND.values()], ids=[*CASES, *BEYOND])
def test_every_architecture_comes_back(architecture: Architecture) -> None:
    data = json.loads(json.dumps(architecture_to_dict(architecture)))
    assert architecture_from_dict(data) == architecture


def test_only_what_differs_from_its_default_is_written() -> None:
    architecture = BEYOND["local and global"]
    data = architecture_to_dict(architecture)
    assert data == {
        "vocab": 9,
        "width": 8,
        "context": 16,
        "layers": data["layers"],
        "blocks": {
            "local": {
                "branches": [
                    {
                        "type": "attention",
                        "heads": {"type": "grouped", "query": 2, "kv": 1, "dim": 4},
                        "position": {"type": "rotary"},
                        "span": {"type": "window", "size": 3},
                    },
                    {"type": "feed_forward", "hidden": 8},
                ]
            },
            "global": {
                "branches": [
                    {"type": "attention", "heads": {"type": "grouped", "query": 2, "kv": 1, "dim": 4}},
                    {"type": "feed_forward", "hidden": 8},
                ]
            },
        },
    }
    assert data["layers"] == ["(local*5 global)*4", "local*2"]


# ---------------------------------------------------------------------------------------------- what is wrong


def good() -> dict[str, Any]:
    return {
        "vocab": 9,
        "width": 8,
        "context": 16,
        "layers": ["a*2"],
        "blocks": {
            "a": {
                "branches": [
                    {
                        "type": "attention",
                        "heads": {"type": "grouped", "query": 2, "kv": 1, "dim": 4},
                        "position": {"type": "rotary", "scaling": {"type": "linear_scaling", "factor": 2.0}},
                        "softcap": 5.0,
                    },
                    {"type": "moe", "experts": 4, "active": 2, "expert": {"hidden": 3}},
                ],
                "norm": {"kind": "layer"},
            }
        },
    }


BRANCH, MIXTURE = ("blocks", "a", "branches", 0), ("blocks", "a", "branches", 1)


@pytest.mark.parametrize(
    ("place", "item", "message"),
    [
        (("vocab",), "nine", "vocab: expected a whole number, got 'nine'"),
        (("vocab",), 9.5, "vocab: expected a whole number, got 9.5"),
        (("vocab",), True, "vocab: expected a whole number, got True"),
        (("vocab",), 0, "architecture: vocab must be positive, got 0"),
        (("depth",), 3, "depth: unknown field; known are vocab, width, context, layers, blocks, emb"),
        (("head",), [], "head: expected a table such as { tied = true }, got []"),
        (("head",), {"tied": 1}, "head.tied: expected true or false, got 1"),
        (("layers",), ["b"], "layers: 'b' is none of the blocks a"),
        (("layers",), ["a*"], "layers: unexpected '*', character 2 of 'a*'; a pattern is such as 'dense*3 (local"),
        (("layers",), ["a*9999"], "layers: 9999 layers are more than 4096"),
        (("layers",), 7, "layers: got 7 instead of patterns of block names such as ['dense*3', 'sparse*58']"),
        (("layers",), [], "layers: got [] instead of patterns"),
        (("layers",), " ", "layers: got ' ' instead of patterns"),
        (("layers",), None, "layers: required field is missing; it has patterns of block names"),
        (("encoder",), {"blocks": []}, "encoder.blocks: unknown field; known are layers, norm"),
        (("blocks",), ["a"], "blocks: expected a table [blocks.NAME] for each block, got ['a']"),
        (("preset",), "gpt2", "preset = 'gpt2': only training takes a preset from a file"),
        (("blocks", "a"), None, "blocks.a: expected a table"),
        (("blocks", "a", "branches"), {}, "blocks.a.branches: expected a list, got {}"),
        (("blocks", "a", "branches"), [], "blocks.a: branches must not be empty"),
        (("blocks", "a", "norm", "kind"), "batch", "blocks.a.norm.kind: expected one of rms, layer, got 'batch'"),
        (("blocks", "a", "norm", "eps"), -1, "blocks.a.norm: eps must be positive, got -1"),
        ((*BRANCH, "type"), "conv", "blocks.a.branches[0].type: 'conv' is not one of attention"),
        ((*BRANCH, "type"), [], "blocks.a.branches[0].type: [] is not one of attention"),
        ((*BRANCH, "heads", "kv"), 3, "blocks.a.branches[0].heads: kv=3 does not divide query=2"),
        ((*BRANCH, "heads"), {"type": "grouped", "query": 2}, "blocks.a.branches[0].heads.kv: required field"),
        ((*BRANCH, "position", "scaling", "factor"), "2", "blocks.a.branches[0].position.scaling.factor: exp"),
        ((*BRANCH, "position", "fraction"), 0.2, "blocks.a.branches[0]: fraction=0.2 of dim=4 rotates 0 dimensions"),
        ((*BRANCH, "softcap"), True, "blocks.a.branches[0].softcap: expected a number or \"none\", got True"),
        ((*BRANCH, "span"), "full", "blocks.a.branches[0].span: expected a table with type = full, window or chunk"),
        (("blocks", "a", "branches", 0), {}, "blocks.a.branches[0].type: required field is missing; one of attention,"),
        (("blocks", "a", "norm"), "layer", "blocks.a.norm: expected a table such as { kind = \"layer\" }, got 'layer'"),
        (("norm",), "layer", "norm: expected a table such as { kind = \"layer\" } or \"none\", got 'layer'"),
        ((*MIXTURE, "expert"), 128, "blocks.a.branches[1].expert: expected a table such as { hidden = 8 }, got 128"),
        ((*MIXTURE, "shared"), 1, "blocks.a.branches[1].shared: expected a table such as { hidden = 8 } or \"none\""),
        (("blocks", "a", "branches", 1, "expert", "activation"), "tanh", "blocks.a.branches[1].expert.activation: "),
        (("blocks", "a", "branches", 1, "active"), 5, "blocks.a.branches[1]: active=5 exceeds experts=4"),
    ],
)  # fmt: skip
def test_errors_name_the_path_and_what_was_found(place: tuple[Any, ...], item: Any, message: str) -> None:
    data = good()
    inner: Any = data
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = item
    with pytest.raises(ConfigError) as error:
        architecture_from_dict(data)
    assert str(error.value).startswith(message)


def inner_tables(kind: type) -> Iterator[tuple[str, type]]:
    """(field, kind) of every field within that holds tables of one kind only."""
    for name, hint in schema.hints(kind).items():
        found = schema.kinds(hint)
        if len(found) == 1 and found != [Block]:
            yield name, found[0]
        for inner in found:
            yield from inner_tables(inner)


def test_the_example_of_a_message_can_be_read() -> None:
    found = dict.fromkeys(inner_tables(Architecture))
    assert {name for name, _ in found} > {"norm", "embedding", "expert", "groups", "qk_norm", "loss", "mixture"}
    for name, kind in found:
        if kind is not Encoder:  # it needs blocks
            assert isinstance(decode(kind, tomllib.loads(f"{name} = {schema.example(kind)}")[name]), kind)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3) | st.just("none"),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "kind", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(places(good()))[1:]), JUNK)
def test_junk_anywhere_is_a_config_error_or_an_architecture(place: tuple[Any, ...], junk: Any) -> None:
    data = good()
    inner: Any = data
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = copy.deepcopy(junk)
    try:
        read = architecture_from_dict(data)
    except ConfigError:
        return
    assert architecture_from_dict(architecture_to_dict(read)) == read


@pytest.mark.parametrize("junk", [None, 3, [], "x", {}, {"blocks": {}}], ids=repr)
def test_what_is_no_architecture_at_all(junk: Any) -> None:
    with pytest.raises(ConfigError):
        architecture_from_dict(junk)


# ---------------------------------------------------------------------------------------------- files

TOML = """
vocab = 9
width = 8
context = 16
layers = ["(local*2 global)*3"]
norm = "none"
[[blocks.local.branches]]
type = "attention"
heads = {type = "grouped", query = 2, kv = 1, dim = 4}
span = {type = "window", size = 3}
[blocks.global]
branches = [{type = "feed_forward", hidden = 8, activation = {limit = 7}}]
"""


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["toml", "json"])
def test_files_of_both_kinds_hold_the_same(tmp_path: Path, kind: str, wrapped: bool) -> None:
    toml = tmp_path / "a.toml"
    inside = "[architecture]" + TOML.replace("[blocks.", "[architecture.blocks.")
    toml.write_text(inside if wrapped else TOML)
    architecture = load_architecture(toml)
    assert architecture.norm is None and len(architecture.blocks) == 9
    assert architecture.blocks[2].branches[0].activation.limit == 7.0  # type: ignore[union-attr]
    if kind == "json":
        data = architecture_to_dict(architecture)
        (tmp_path / "a.json").write_text(json.dumps({"architecture": data} if wrapped else data))
        assert load_architecture(tmp_path / "a.json") == architecture


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", b"{", "Expecting property name"),
        ("a.toml", b"vocab =", "Invalid value"),
        ("a.json", b"[]", "expected a table, got []"),
        ("a.json", b"3", "expected a table, got 3"),
        ("a.json", b"{}", "blocks: required field is missing; needed are vocab, width, context, layers and blocks"),
        ("a.toml", b"", "blocks: required field is missing"),
        ("a.toml", b"[training]\nsteps = 1", "training: unknown field; known are vocab"),
        (
            "a.toml",
            b"vocab = 9\n[[blocks]]\nname = 'a'",
            "blocks: expected a table [blocks.NAME] for each block, got [",
        ),
        ("a.toml", b"[architecture]\npreset = 'gpt2'", "preset = 'gpt2': only training takes a preset from a file"),
        ("a.json", b"[" * 100_000, "tables within tables, too deep to be read"),
        ("a.toml", b"x = " + b"[" * 100_000, "tables within tables, too deep to be read"),
        ("a.toml", b"vocab = 9 # \xff", "'utf-8' codec can't decode byte 0xff"),
        ("a.json", b"\xff", "'utf-8' codec can't decode byte 0xff"),
        ("a.json", b'{"vocab": 1' + b"0" * 5000 + b"}", "Exceeds the limit"),
        ("missing/a.toml", b"", "No such file or directory"),
    ],
)
def test_broken_files_are_config_errors_that_name_them(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    if "/" not in name:
        (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError) as error:
        load_architecture(tmp_path / name)
    assert str(error.value).startswith(f"{Path(name).name}: {message}")


def test_a_number_that_no_float_holds_is_refused_by_its_field() -> None:
    data = good()
    data["blocks"]["a"]["branches"][0]["position"]["theta"] = 10**400
    with pytest.raises(ConfigError, match=r"branches\[0\]\.position\.theta must be from -1e\+30 to 1e\+30, got 10000"):
        architecture_from_dict(data)
