"""Linear layers of few tokens, with what comes before and behind them, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model.feedforward import ACTIVATIONS
from tests.model.card import TYPES, draw, near

from model.kernels.card.linear import Gain, linear  # isort: skip

DEPTH, COLUMNS = 96, 40


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 3, 20, 70])
def test_it_is_the_product(tokens: int, dtype: torch.dtype) -> None:
    x, weight = draw(tokens, DEPTH, dtype=dtype), draw(COLUMNS, DEPTH, dtype=dtype, scale=0.1)
    bias, added = draw(COLUMNS, dtype=dtype), draw(tokens, COLUMNS, dtype=dtype)
    expected = F.linear(x.float(), weight.float(), bias.float())
    assert near(linear(x, weight, bias), expected)
    assert near(linear(x, weight, bias, added=added), expected + added.float())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_and_gates(kind: str, gated: bool, dtype: torch.dtype) -> None:
    rows = COLUMNS * (2 if gated else 1)
    x, weight, bias = draw(5, DEPTH, dtype=dtype), draw(rows, DEPTH, dtype=dtype, scale=0.1), draw(rows, dtype=dtype)
    hidden = F.linear(x.float(), weight.float(), bias.float())
    expected = ACTIVATIONS[kind](hidden[:, :COLUMNS])
    found = linear(x, weight, bias, activation=kind, gated=gated)
    assert near(found, expected * hidden[:, COLUMNS:] if gated else expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("weighted", [True, False], ids=["weights", "none"])
def test_the_norm_before_it(weighted: bool, offset: float, dtype: torch.dtype) -> None:
    x, weight = draw(3, 128, dtype=dtype, scale=3), draw(COLUMNS, 128, dtype=dtype, scale=0.1)
    gain = draw(128, dtype=dtype) if weighted else None
    normed = F.rms_norm(x.float(), (128,), None if gain is None else gain.float() + offset, 1e-5)
    found = linear(x, weight, norm=Gain(gain, offset, 1e-5))
    assert near(found, F.linear(normed, weight.float()))
