"""Angles, the last norm with the head and a look at logits, each in one call, give what the plain model gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config
from model.kernels import ends, native, rows
from model.norm import Norm
from model.position import RotaryTable
from tests.model.cases import block
from tests.model.randomise import random_model

TYPES = sorted(native.linear_types(), key=str)
pytestmark = pytest.mark.skipif(not TYPES, reason="no vector units or no compiler here")

ROTARIES = {
    "plain": config.Rotary(),
    "half of a head": config.Rotary(theta=500.0, fraction=0.5),
    "stretched": config.Rotary(scaling=config.YarnScaling(4.0, 64)),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("rotary", ROTARIES.values(), ids=ROTARIES.keys())
def test_angles_are_those_of_the_table(rotary: config.Rotary, dtype: torch.dtype) -> None:
    """With few positions and with many, which threads share; far from the start too."""
    table = RotaryTable(rotary, 48)
    for positions in (torch.tensor([7]), torch.arange(100), torch.tensor([0, 131_071, 4_095])):
        found, expected = ends.Angles(table)(positions, dtype), table(positions, dtype)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape and one.dtype == dtype
            exact = dtype == torch.float32
            assert torch.allclose(one.double(), other.double(), rtol=0, atol=2e-6 if exact else 8e-3)


NORMS = {
    "rms": config.Norm(),
    "one more than kept": config.Norm(offset=1.0),
    "layer": config.Norm("layer", bias=True),
    "without weight": config.Norm(weight=False),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_norm_and_head_in_one_call(norm: config.Norm, tied: bool) -> None:
    branches = config.Attention(config.Grouped(4, 2, 16), config.Rotary()), config.FeedForward(96)
    head = config.Head(tied=tied, bias=True)
    model = random_model(config.Architecture(61, 64, 64, (block(*branches),), norm=norm, head=head))
    x = torch.randn(14, 64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    with torch.inference_mode():
        expected = model.project(model.norm(x))
        assert ends.fuse(model) == 2 and isinstance(model.head, ends.NormedHead) and not isinstance(model.norm, Norm)
        found = model.project(model.norm(x))
        assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-4)
        assert ends.fuse(model) == 0
        assert model.project(x[:0]).shape == (0, 61)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_look_finds_the_best_and_what_is_no_number(data: st.DataObject) -> None:
    """The first of equals; NaN before all others; in rows that lie apart too."""
    count, vocab, spare = (data.draw(st.integers(low, most)) for low, most in ((1, 5), (1, 70), (0, 3)))
    kind = st.sampled_from([0.0, -0.0, 1.0, 1.0, -2.0, 3e38, -3e38])
    strange = st.sampled_from([float("nan"), float("inf"), float("-inf")])
    numbers = data.draw(st.lists(kind, min_size=count * (vocab + spare), max_size=count * (vocab + spare)))
    logits = torch.tensor(numbers).view(count, vocab + spare)[:, :vocab]
    for value in data.draw(st.lists(strange, max_size=2)):
        logits[data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, vocab - 1))] = value
    finite, best = rows.look(logits)
    assert finite.tolist() == np.isfinite(logits.numpy()).all(-1).tolist()
    assert best.tolist() == logits.numpy().argmax(-1).tolist()
