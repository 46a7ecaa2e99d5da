"""config.json files as published, in the keys of their time, read as what their models are.

published.json has them (without what does not bear on the computation) and the exact parameters of each model.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from model import presets
from model.checkpoint.families import FAMILIES
from model.checkpoint.fill import skeleton
from model.checkpoint.settings import Settings
from model.config import (
    Architecture,
    Full,
    Grouped,
    LinearScaling,
    Llama3Scaling,
    Rotary,
    Temperature,
    Window,
    YarnScaling,
)

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())


def read(name: str) -> Architecture:
    settings = Settings(PUBLISHED[name]["config"])
    return settings.choice("model_type", among=FAMILIES).architecture(settings)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name: str) -> None:
    model = skeleton(read(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]["parameters"]


def rotary(architecture: Architecture, layer: int = 0) -> Rotary:
    position = architecture.attentions[layer].position
    assert isinstance(position, Rotary)
    return position


def test_scalings_of_older_files() -> None:
    assert rotary(read("Llama 3.1 8B")) == Rotary(500000.0, scaling=Llama3Scaling(8.0, 8192, 1.0, 4.0))
    scaling = YarnScaling(40.0, 4096, 32.0, 1.0, magnitude=1.0)
    assert rotary(read("DeepSeek-V3")) == Rotary(10000.0, layout="interleaved", scaling=scaling)
    assert rotary(read("gpt-oss 120B")).scaling == YarnScaling(32.0, 4096, 32.0, 1.0, None, truncate=False)


@pytest.mark.parametrize(
    ("name", "preset"), [("MiniMax-Text-01", "minimax-text-01"), ("Nemotron 3 Nano", "nemotron-3-nano-30b-a3b")]
)
def test_hybrids_are_their_presets(name: str, preset: str) -> None:
    assert read(name) == presets.load(preset)


def test_llama_4_scout_is_the_preset() -> None:
    """The release that follows instructions: its temperature is switched on by a 4, its rotation scaled by a step."""
    found, preset = read("Llama 4 Scout"), presets.load("llama-4-scout")
    assert rotary(found).scaling == Llama3Scaling(16.0, 8192, 1.0, 1.0)
    assert found.attentions[3].temperature == Temperature(8192.0, 0.1)
    assert (found.attentions, found.context) == (preset.attentions, preset.context)


def test_deepseek_sharpens_its_scores() -> None:
    assert math.isclose(read("DeepSeek-V3").attentions[0].softmax_scale, 0.135234, rel_tol=1e-5)


def test_gemma_3_rotates_by_kind_of_layer() -> None:
    attentions = read("Gemma 3 4B").attentions
    assert [i for i, attention in enumerate(attentions) if attention.span == Full()] == [5, 11, 17, 23, 29]
    assert attentions[0].span == Window(1024)
    assert attentions[0].position == Rotary(10000.0)
    assert attentions[5].position == Rotary(1e6, scaling=LinearScaling(8.0))


def test_parts_of_heads_that_rotate() -> None:
    rotated = {"Pythia 6.9B": 32, "GPT-J": 64, "Phi-2": 32, "GLM-4.5 Air": 64, "MiniMax-M2": 64, "Nemotron-4 15B": 64}
    for name, count in rotated.items():
        heads = read(name).attentions[0].heads
        assert isinstance(heads, Grouped)
        assert rotary(read(name)).rotated(heads.dim) == count, name


def test_hunyuan_stretches_its_base() -> None:
    assert math.isclose(rotary(read("Hunyuan A13B")).theta, 11158839.925, rel_tol=1e-6)
