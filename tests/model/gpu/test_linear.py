"""Linear layers of one token, with what comes before and behind them, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model.feedforward import ACTIVATIONS
from model.kernels.gpu.linear import Gain, gated, normed, vector
from tests.model.gpu import DEVICE, TYPES, draw, near

DEPTH, COLUMNS = 96, 40


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("depth", [DEPTH, 1024, 1500])
def test_it_is_the_product(depth: int, dtype: torch.dtype) -> None:
    x, weight = draw(1, depth, dtype=dtype), draw(COLUMNS, depth, dtype=dtype, scale=0.1)
    bias, added = draw(COLUMNS, dtype=dtype), draw(1, COLUMNS, dtype=dtype)
    expected = F.linear(x.float(), weight.float(), bias.float())
    assert near(vector(x, weight, bias), expected)
    assert near(vector(x, weight, bias, added=added), expected + added.float())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_and_gates(kind: str, gate: bool, dtype: torch.dtype) -> None:
    rows = COLUMNS * (2 if gate else 1)
    x, weight, bias = draw(1, DEPTH, dtype=dtype), draw(rows, DEPTH, dtype=dtype, scale=0.1), draw(rows, dtype=dtype)
    hidden = F.linear(x.float(), weight.float(), bias.float())
    expected = ACTIVATIONS[kind](hidden[:, :COLUMNS])
    found = vector(x, weight, bias, activation=kind, gated=gate)
    assert near(found, expected * hidden[:, COLUMNS:] if gate else expected)
    wide = draw(5, 2 * 1100, dtype=dtype)
    assert near(gated(wide, kind), ACTIVATIONS[kind](wide[:, :1100].float()) * wide[:, 1100:].float())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("weighted", [True, False], ids=["weights", "none"])
def test_the_norm_before_it(weighted: bool, offset: float, dtype: torch.dtype) -> None:
    x, weight = draw(3, 120, dtype=dtype, scale=3), draw(COLUMNS, 120, dtype=dtype, scale=0.1)
    gain = draw(120, dtype=dtype) if weighted else None
    expected = F.rms_norm(x.float(), (120,), None if gain is None else gain.float() + offset, 1e-5)
    norm = Gain(gain, offset, 1e-5)
    assert near(normed(x, norm), expected)
    assert near(vector(x[:1], weight, norm=norm), F.linear(expected[:1], weight.float()))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_chosen_experts_of_a_stack(dtype: torch.dtype) -> None:
    x, stack, bias = draw(1, DEPTH, dtype=dtype), draw(5, 80, DEPTH, dtype=dtype, scale=0.1), draw(5, 80, dtype=dtype)
    chosen = torch.tensor([[3, 1]], device=DEVICE)
    hidden = torch.stack([F.linear(x[0].float(), stack[e].float(), bias[e].float()) for e in (3, 1)])
    found = vector(x, stack, bias, activation="silu", gated=True, experts=chosen)
    assert near(found, F.silu(hidden[:, :40]) * hidden[:, 40:])
    each = draw(2, DEPTH, dtype=dtype)
    expected = torch.stack([F.linear(row.float(), stack[e].float()) for row, e in zip(each, (3, 1), strict=True)])
    assert near(vector(each, stack, experts=chosen), expected)
