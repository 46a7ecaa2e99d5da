"""config.json files of recurrent mixers: what is refused, what is left out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from model.checkpoint.error import CheckpointError
from model.checkpoint.families import FAMILIES
from model.checkpoint.settings import Settings
from model.config import Rotary
from tests.model.checkpoint.recurrent import KIMI, LING, QWEN

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a bias of queries and gates": (
        "qwen3_next",
        QWEN | {"attention_bias": True},
        "attention_bias=True: not supported",
    ),
    "another activation": ("qwen3_next", QWEN | {"hidden_act": "gelu"}, "hidden_act='gelu': not supported"),
    "a window": (
        "qwen3_5_moe_text",
        QWEN | {"layer_types": ["sliding_attention"] * 4},
        "layer_types has 'sliding_attention', which is not supported; known are 'full_attention', 'linear_attention'",
    ),
    "layers of no kind": (
        "kimi_linear",
        KIMI | {"linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3]}},
        "linear_attn_config.full_attn_layers=[4]: it and kda_layers must have each of 1 to 5 once",
    ),
    "a bound of decays": (
        "kimi_linear",
        KIMI | {"linear_attn_config": {"gate_lower_bound": -5.0}},
        "linear_attn_config.gate_lower_bound=-5.0: not supported; only null",
    ),
    "a bound that is none": (
        "bailing_hybrid",
        LING | {"kda_lower_bound": 0.0},
        "kda_lower_bound=0.0: it must be negative",
    ),
    "positions in full layers": ("kimi_linear", KIMI | {"mla_use_nope": False}, "mla_use_nope=False: not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    kind, settings, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=re.escape(message)):
        FAMILIES[kind].architecture(Settings(settings))


def test_a_share_of_the_head_that_turns_is_not_taken_of_the_part_that_does() -> None:
    rotated = LING | {"partial_rotary_factor": 0.5, "rope_theta": 3e6}
    architecture = FAMILIES["bailing_hybrid"].architecture(Settings(rotated))
    assert architecture.attentions[0].position == Rotary(3e6, layout="interleaved")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("qwen3_next", "mtp.layers.0.mlp.gate.weight"),
        ("qwen3_5_moe_text", "mtp.fc.weight"),
        ("bailing_hybrid", "model.layers.4.eh_proj.weight"),
    ],
)
def test_layers_that_predict_further_tokens_are_left_out(kind: str, name: str) -> None:
    assert any(re.fullmatch(pattern, name) for pattern in FAMILIES[kind].ignored(Settings(LING)))
