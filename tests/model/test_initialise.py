"""Random weights: fixed by their seed, of the right sizes, with everything that should be neutral neutral."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from model.attention import GroupedAttention, LatentAttention
from model.config import Architecture
from model.dense import dense_input
from model.feedforward import FeedForward
from model.initialise import random_model
from model.moe import Experts
from model.norm import Norm
from model.recurrent import RecurrentMixer
from tests.model.cases import CASES, MIXED_CASES

MIXED = pytest.mark.parametrize("architecture", MIXED_CASES.values(), ids=MIXED_CASES.keys())


def into_residual(module: nn.Module) -> list[object]:
    """The weights of a branch, or of a part of one, whose products are added to the residual stream."""
    match module:
        case GroupedAttention() | LatentAttention() | RecurrentMixer():
            return [module.out.weight]
        case FeedForward():
            return [module.down.weight]
        case Experts():
            return [module.down]
        case _:
            return []


@MIXED
def test_a_seed_fixes_the_weights(architecture: Architecture) -> None:
    one, same, other = (random_model(architecture, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@MIXED
def test_norms_begin_as_identities_and_everything_else_small(architecture: Architecture) -> None:
    model = random_model(architecture, 0)
    last = {id(weight) for module in model.modules() for weight in into_residual(module)}
    for module in model.modules():
        if isinstance(module, Norm) and module.weight is not None:
            assert torch.all(module.weight + module.value.offset == 1)
    spread = {id(p) for m in model.modules() if isinstance(m, RecurrentMixer) for p in m.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if id(parameter) in spread:
            continue  # below
        if parameter.dim() > 1 and "norm" not in name:
            expected = 0.02 / (2 * len(model.blocks)) ** 0.5 if id(parameter) in last else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.25), name
        elif "norm" not in name:
            assert not parameter.any(), name


def test_fresh_states_are_kept_for_a_few_and_for_many_tokens() -> None:
    mixer = random_model(CASES["recurrent: state space"], 0).blocks[0].branches[0]  # type: ignore[index]
    assert isinstance(mixer, RecurrentMixer) and mixer.rate is not None and mixer.step_bias is not None
    kept = torch.exp(-mixer.rate.exp() * torch.nn.functional.softplus(mixer.step_bias))
    assert kept.max().item() == pytest.approx(0.999, abs=1e-4)
    assert kept.min().item() == pytest.approx(math.exp(-1.6), abs=1e-4)
    assert mixer.taps is not None and mixer.taps[0].tolist() == [0.0, 0.0, 1.0]
    assert (
        mixer.norm is not None and mixer.skip is not None and bool((mixer.norm == 1).all() and (mixer.skip == 1).all())
    )


def test_fresh_logits_are_nearly_even() -> None:
    architecture = CASES["heads: grouped-query"]
    step = dense_input(architecture, torch.arange(20)[None])
    assert random_model(architecture, 0)(step).logits.abs().max() < 1


def test_parameters_take_the_type_and_buffers_stay_float32() -> None:
    model = random_model(CASES["experts: correction"], 0, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.buffers()} == {torch.float32}
