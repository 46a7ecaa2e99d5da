"""config.json files of MiniMax-Text-01 and Nemotron-H: what is refused, what is left out, what is said in two ways."""

from __future__ import annotations

import re
from typing import Any

import pytest

from model.checkpoint.error import CheckpointError
from model.checkpoint.families import FAMILIES
from model.checkpoint.settings import Settings
from model.config import Architecture, Rotary, Window
from tests.model.checkpoint.cases import CASES

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "streams of their own weights": (
        "minimax",
        {"mlp_alpha_factor": 2.0},
        "mlp_alpha_factor=2.0: not supported where full_attn_alpha_factor is 1.0",
    ),
    "branches of their own weights": ("minimax", {"full_attn_beta_factor": 0.5}, "linear_attn_beta_factor=None"),
    "a stream that is left out": ("minimax", {"full_attn_alpha_factor": 0}, "it must be positive"),
    "another activation": ("minimax", {"hidden_act": "gelu"}, "hidden_act='gelu': not supported"),
    "latent experts": ("nemotron_h", {"moe_latent_size": 8}, "moe_latent_size=8: not supported"),
    "a window": ("nemotron_h", {"sliding_window": 8}, "sliding_window=8: not supported"),
    "biases of mixers": ("nemotron_h", {"use_bias": True}, "use_bias=True: not supported"),
    "limited steps": ("nemotron_h", {"time_step_limit": [0.0, 0.5]}, "time_step_limit=[0.0, 0.5]: not supported"),
    "an unknown layer": ("nemotron_h", {"layers_block_type": ["mamba", "rwkv"]}, "layers_block_type has 'rwkv'"),
    "an unknown letter": ("nemotron_h", {"layers_block_type": None, "hybrid_override_pattern": "ME?"}, "='ME?'"),
    "no layers": ("nemotron_h", {"layers_block_type": []}, "layers_block_type=[]: from 1 to 4096 layers are needed"),
    "no word on layers": ("nemotron_h", {"layers_block_type": None}, "hybrid_override_pattern=None"),
}


def read(kind: str, **changes: Any) -> Architecture:
    return FAMILIES[kind].architecture(Settings(CASES[kind][1] | changes))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    kind, changes, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read(kind, **changes)


def test_layers_have_letters_or_words() -> None:
    words = read("nemotron_h", layers_block_type=["mamba", "moe", "attention", "mlp", "linear_attention"])
    letters = read("nemotron_h", layers_block_type=None, hybrid_override_pattern="ME*-M")
    assert words == letters == read("nemotron_h")


@pytest.mark.parametrize("endless", [float("inf"), {"__float__": "Infinity"}])
def test_steps_without_a_limit(endless: object) -> None:
    assert read("nemotron_h", time_step_limit=[0.0, endless]) == read("nemotron_h")


def test_a_part_of_each_head_turns() -> None:
    [attention, _] = read("minimax", rotary_dim=4, sliding_window=5).attentions
    assert isinstance(attention.position, Rotary) and attention.position.rotated(10) == 4
    assert attention.span == Window(5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("nemotron_h", "mtp.layers.0.mixer.in_proj.weight"), ("minimax", "model.layers.3.self_attn.slope_rate")],
)
def test_what_no_forward_pass_reads_is_left_out(kind: str, name: str) -> None:
    assert any(re.fullmatch(pattern, name) for pattern in FAMILIES[kind].ignored(Settings(CASES[kind][1])))
