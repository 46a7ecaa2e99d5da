"""Published architectures by name, and small ones of their shape that run."""

from __future__ import annotations

import json

import pytest
import torch

from model import config, presets
from model.codec import architecture_from_dict, architecture_to_dict
from model.config import Architecture, Attention, Block, Buckets, Latent, Learned, MoE, Rotary, Window
from model.dense import dense_input, dense_memory
from model.initialise import random_model
from model.parameters import parameters
from model.presets import SCALES, Scale, UnknownPreset, scaled
from model.presets.scale import shortened

EVERY = pytest.mark.parametrize("name", presets.names())
WELL_KNOWN = """
    transformer gpt2 gpt2-xl gpt3 gpt3-175b palm palm-540b llama-7b llama-2-7b llama-2-13b llama-2-70b llama-3-8b
    llama-3.1-8b llama-3.1-405b llama-3.2-1b mistral-7b gpt-neox-20b bloom mpt-7b mixtral-8x7b mixtral-8x22b
    deepseek-v2 deepseek-v2-lite deepseek-v3 switch-base-8 switch-c-2048 llama-3.2-11b-vision qwen2-7b qwen2.5-7b
    qwen2-57b-a14b qwen3-8b qwen3-30b-a3b qwen3-235b-a22b gemma-2b gemma-2-9b gemma-3-27b gpt-oss-20b gpt-oss-120b
    llama-4-scout llama-4-maverick olmo-7b olmo-2-7b olmoe-1b-7b glm-4.5 glm-4.5-air kimi-k2 granite-3.0-1b-a400m
    granite-3.0-3b-a800m minimax-m2 qwen3-next qwen3.5 kimi-linear minimax-text-01
    nemotron-3-nano ling-3.0
"""


@pytest.mark.parametrize("name", WELL_KNOWN.split())
def test_what_the_field_names_is_there(name: str) -> None:
    assert presets.resolve(name) in presets.names()


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        *((name, "deepseek-v3") for name in ("DeepSeek-V3", "deepseek_v3", " DeepSeek V3 ", "deepseekv3")),
        *((name, "qwen2.5-7b") for name in ("Qwen 2", "qwen2", "Qwen-2-7B")),
        ("Gemma 1", "gemma-7b"),
        ("llama2", "llama-2-7b"),
        ("llama3", "llama-3-8b"),
        ("LLaMA 3.1", "llama-3.1-8b"),
        ("gpt-oss20b", "gpt-oss-20b"),
    ],
)
def test_a_name_may_be_written_as_people_do(name: str, preset: str) -> None:
    assert presets.find(name).name == preset


def test_no_two_names_differ_by_what_parts_their_words_alone() -> None:
    known_as = json.loads((presets.HERE / "names.json").read_text())["aliases"] | {n: n for n in presets.names()}
    meant = {name.replace("-", ""): full for name, full in known_as.items()}
    assert all(meant[name.replace("-", "")] == full for name, full in known_as.items())


def test_no_short_name_hides_a_preset() -> None:
    known_as = json.loads((presets.HERE / "names.json").read_text())
    assert set(known_as["aliases"].values()) <= set(presets.names())
    assert not {*known_as["aliases"], *known_as["absent"]} & set(presets.names())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixtral-8x7", "close ones are mixtral-8x7b"),
        ("gtp2", "gpt2"),
        ("zzz", "'zzz' is not a preset, of which there are"),
        ("GPT-4", "gpt-4: closed: no sizes were ever published"),
        ("GPT4", "gpt-4: closed"),
        ("kimi-k3", "it needs latent MoE"),
    ],
)
def test_an_unknown_name_is_told_what_is_near_or_why_not(name: str, message: str) -> None:
    with pytest.raises(UnknownPreset) as error:
        presets.load(name)
    assert message in str(error.value)


@EVERY
def test_a_preset_is_data_and_comes_back(name: str) -> None:
    preset = presets.find(name)
    data = json.loads(json.dumps(architecture_to_dict(preset.architecture)))
    assert architecture_from_dict(data) == preset.architecture
    assert preset.source and preset.year > 2016


def test_known_shapes() -> None:
    v3 = presets.load("deepseek-v3")
    assert [isinstance(block.branches[1], MoE) for block in v3.blocks] == [False] * 3 + [True] * 58
    assert v3.attentions[0].scale == pytest.approx(0.135234, abs=1e-6)
    gemma = presets.load("gemma-3-12b")
    assert [isinstance(a.span, Window) for a in gemma.attentions[:12]] == ([True] * 5 + [False]) * 2
    switch = presets.load("switch-base-8")
    assert switch.encoder is not None and [index for index, _ in switch.encoder.mixtures] == [1, 3, 5, 7, 9, 11]
    assert isinstance(switch.attentions[0].position, Buckets)


# ---------------------------------------------------------------------------------------------- small models


@EVERY
def test_tiny_runs_and_keeps_its_shape(name: str) -> None:
    whole = presets.load(name)
    tiny = scaled(whole, "tiny")
    model = random_model(tiny, seed=0).eval().requires_grad_(False)
    tokens = torch.arange(20)[None] % tiny.vocab
    memory = dense_memory(model, tokens) if tiny.encoder else None
    assert model(dense_input(tiny, tokens, memory)).logits.isfinite().all()
    counted = parameters(tiny)
    assert counted.total == sum(parameter.numel() for parameter in model.parameters()) < 10_000_000
    assert [*map(shape, kinds(tiny))] == [*map(shape, kinds(whole))]


def kinds(architecture: Architecture) -> dict[Block, None]:
    return dict.fromkeys(block.kind for block in architecture.blocks)


def shape(block: Block) -> list[object]:
    """What a small model has to share with the large one."""
    return [block.placement, block.parallel, block.norm, *map(branch_shape, block.branches)]


def branch_shape(branch: config.Branch) -> object:
    match branch:
        case Attention(heads):
            if isinstance(heads, Latent):
                kind: object = heads.query_rank is None
            else:
                kind = (heads.query // heads.kv, heads.kv == 1, heads.kv == heads.query, heads.qk_norm)
            position = branch.position.theta if isinstance(branch.position, Rotary) else branch.position
            return (kind, position, type(branch.span), branch.softcap, branch.sinks)
        case config.CrossAttention(heads):
            return heads.query // heads.kv
        case config.Recurrent():
            return (branch.heads // branch.keys, branch.rule, type(branch.decay), branch.gate is None)
        case MoE():
            router = branch.router
            return (branch.active, router.score, router.groups, router.correction, branch.shared is None)
        case config.Beside(_, mixture):
            return branch_shape(mixture)
        case _:
            return branch.activation


@pytest.mark.parametrize("scale", ["small", "medium"])
def test_larger_scales_are_valid_and_grow(scale: str) -> None:
    for name in presets.names():
        whole = presets.load(name)
        found = scaled(whole, scale)
        assert parameters(found).total <= parameters(whole).total
        assert parameters(found).total > parameters(scaled(whole, "tiny")).total
        assert found.context <= SCALES[scale].context


def test_deepseek_v3_tiny() -> None:
    tiny = scaled(presets.load("deepseek-v3"), "tiny")
    dense, *sparse = tiny.blocks
    assert len(sparse) == 3 and isinstance(dense.branches[1], config.FeedForward)
    (_, moe), *_ = tiny.mixtures
    assert (moe.experts, moe.active, moe.router.groups) == (64, 8, config.Groups(8, 4))
    heads = tiny.attentions[0].heads
    assert isinstance(heads, Latent)
    assert (heads.kv_rank, heads.plain_dim, heads.rotary_dim, heads.query_rank) == (64, 16, 16, 16)


@pytest.mark.parametrize("scale", SCALES)
def test_queries_are_compressed_at_every_scale(scale: str) -> None:
    """Latent attention projects its queries through fewer numbers than the width has."""
    small = [scaled(presets.load(name), scale) for name in presets.names()]
    ranks = [(a.heads.query_rank, one.width) for one in small for a in one.attentions if isinstance(a.heads, Latent)]
    assert ranks and all(rank is None or rank < width for rank, width in ranks)


def test_windows_shrink_with_the_context() -> None:
    tiny = scaled(presets.load("mistral-7b"), "tiny")
    assert tiny.context == 512 and tiny.attentions[0].span == Window(64)


def test_an_embedding_scale_follows_the_width() -> None:
    assert scaled(presets.load("gemma-2b"), "tiny").embedding.scale == 8.0


def test_a_scale_never_makes_anything_larger() -> None:
    huge = Scale(10**6, 10**6, 10**6, 10**6, 10**6, 10**8, 10**9)
    for name in ("gpt2", "mixtral", "deepseek-v3", "gemma-3-4b", "switch-base-8", "phi-2"):
        assert scaled(presets.load(name), huge) == presets.load(name)


def test_an_architecture_without_attention_has_a_small_form() -> None:
    whole = Architecture(9999, 512, 1024, (Block((config.FeedForward(2048),)),) * 9)
    assert scaled(whole, "tiny") == Architecture(512, 64, 512, (Block((config.FeedForward(256),)),) * 4)


def test_an_unknown_scale_is_named() -> None:
    with pytest.raises(config.ConfigError, match="'huge' is not one of tiny, small, medium"):
        scaled(presets.load("gpt2"), "huge")


def test_a_stack_is_shortened_by_its_repeats() -> None:
    assert "".join(shortened(tuple("d" * 3 + "s" * 58), 4)) == "dsss"
    assert "".join(shortened(tuple("lllllg" * 8), 4)) == "lllllg"
    assert "".join(shortened(tuple("lllllg" * 8), 13)) == "lllllg" * 2
    assert "".join(shortened(tuple("abac" * 12), 9)) == "abac" * 2


def test_decays_of_a_small_model_are_spread_over_the_depth() -> None:
    small = scaled(presets.load("minimax-text-01"), "tiny")
    decays = [mixer.decay.scale for mixer in small.recurrents if isinstance(mixer.decay, config.FixedDecay)]
    assert decays == sorted(decays, reverse=True) and decays[0] > 1 > 0.2 > decays[-1]


def test_learned_positions_keep_their_spare_rows() -> None:
    architecture: Architecture = scaled(presets.load("opt-125m"), "tiny")
    assert architecture.embedding.position == Learned(514, 2)
