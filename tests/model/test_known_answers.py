"""Numbers that anybody can work out, of the smallest parts: positions, norms, activations."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from model.config import (
    Buckets,
    ClampedGate,
    FeedForward,
    Llama3Scaling,
    Norm,
    Rotary,
    YarnScaling,
)
from model.feedforward import activate
from model.norm import Norm as NormModule
from model.position import alibi_slopes, bucket, inverse_frequencies, magnitude, rotate, sinusoids, yarn_ramp

# ---------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 12, 112])
def test_alibi_slopes(heads: int) -> None:
    """arXiv:2108.12409: 8 heads have 1/2 … 1/256; 12 heads those eight, then 2^-0.5, 2^-1.5, 2^-2.5, 2^-3.5."""
    known = {8: [2.0**-i for i in range(1, 9)], 1: [2**-8], 2: [2**-4, 2**-8], 4: [2**-2, 2**-4, 2**-6, 2**-8]}
    known[12] = [*known[8], 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    known[112] = [2 ** (-i / 8) for i in range(1, 65)] + [2 ** (-i / 16) for i in range(1, 97, 2)]
    assert alibi_slopes(heads).tolist() == pytest.approx(known[heads], rel=1e-6)


def turned(x: Tensor, positions: Tensor, layout: str) -> Tensor:
    """Exactly turned (float64) heads of 8, for properties that hold far below float32's noise."""
    rates = 10000.0 ** (-torch.arange(4, dtype=torch.double) / 4)
    angles = positions.double()[:, None, None] * rates
    return rotate(x, (angles.cos(), angles.sin()), layout)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotary_scores_depend_on_the_distance_alone(layout: str) -> None:
    """arXiv:2104.09864 §3.4.3."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 20, 3, 8, dtype=torch.double, generator=generator)
    here, there = torch.arange(20), torch.arange(20) + 1000

    def scores(positions: Tensor) -> Tensor:
        return torch.einsum("qhd,khd->hqk", turned(query, positions, layout), turned(key, positions, layout))

    assert (scores(here) - scores(there)).abs().max() < 1e-9
    assert (turned(query, there, layout).norm(dim=-1) - query.norm(dim=-1)).abs().max() < 1e-12
    assert torch.equal(turned(query, here, layout)[0], query[0])


def test_the_two_rotary_layouts_are_one_permutation_apart() -> None:
    x = torch.randn(5, 2, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    positions = torch.arange(5)
    assert torch.allclose(turned(x, positions, "interleaved")[..., order], turned(x[..., order], positions, "half"))


def test_yarn_as_gpt_oss_has_it() -> None:
    """arXiv:2309.00071: the ramp of 64 dimensions from pair 8.092779 to 17.398025, magnitude 0.1 ln 32 + 1."""
    scaling = YarnScaling(factor=32.0, original_context=4096, truncate=False)
    rotary = Rotary(150000.0, scaling=scaling)
    assert yarn_ramp(scaling, 150000.0, 64) == pytest.approx((8.092779, 17.398025), abs=1e-6)
    assert magnitude(rotary) == pytest.approx(1.3465735903)
    ratio = inverse_frequencies(Rotary(150000.0), 64) / inverse_frequencies(rotary, 64)
    assert ratio[:9].tolist() == pytest.approx([1.0] * 9)
    assert ratio[18:].tolist() == pytest.approx([32.0] * 14)
    assert all(1 < a < b < 32 for a, b in pairwise(ratio[9:18].tolist()))


def test_llama3_scaling_by_eight() -> None:
    """arXiv:2407.21783: of 64 pairs 29 are unchanged, 6 blended, 29 divided by 8."""
    scaled = inverse_frequencies(Rotary(500000.0, scaling=Llama3Scaling(8.0, 8192)), 128)
    ratio = inverse_frequencies(Rotary(500000.0), 128) / scaled
    assert ratio[:29].tolist() == pytest.approx([1.0] * 29)
    assert all(1.001 < x < 7.999 for x in ratio[29:35].tolist())
    assert ratio[35:].tolist() == pytest.approx([8.0] * 29)


def test_llama3_scaling_in_one_step() -> None:
    """Llama 4 Scout: pairs that take more than 8,192 positions to turn once, those from 34.98 on, are divided by 16."""
    scaled = inverse_frequencies(Rotary(500000.0, scaling=Llama3Scaling(16.0, 8192, 1.0, 1.0)), 128)
    ratio = inverse_frequencies(Rotary(500000.0), 128) / scaled
    assert ratio.tolist() == pytest.approx([1.0] * 35 + [16.0] * 29)


def test_t5_buckets() -> None:
    """arXiv:1910.10683's code, causal, 32 buckets to distance 128."""
    known = {0: 0, 1: 1, 15: 15, 16: 16, 20: 17, 32: 21, 64: 26, 127: 31, 199: 31, 100000: 31}
    assert bucket(torch.tensor(list(known)), Buckets(32, 128), both_ways=False).tolist() == list(known.values())


def test_sinusoids() -> None:
    """arXiv:1706.03762 §3.5: sin and cos of position / 10000^(2i / width)."""
    row = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    assert sinusoids(torch.tensor([3]), 4, "interleaved")[0].tolist() == pytest.approx(row)
    assert sinusoids(torch.tensor([3]), 4, "half")[0].tolist() == pytest.approx([row[0], row[2], row[1], row[3]])


# ---------------------------------------------------------------------------------------------- norms and activations


@pytest.mark.parametrize(
    ("name", "at_one"), [("gelu", 0.841345), ("gelu_tanh", 0.841192), ("silu", 0.731059), ("relu", 1.0), ("relu2", 1.0)]
)
def test_activations(name: str, at_one: float) -> None:
    plain_one = FeedForward(1, name, gated=False)  # type: ignore[arg-type]
    assert activate(plain_one, torch.tensor([1.0])).item() == pytest.approx(at_one, abs=1e-6)
    assert activate(FeedForward(1, name), torch.tensor([1.0, 3.0])).item() == pytest.approx(3 * at_one, abs=1e-5)  # type: ignore[arg-type]
    if name == "relu2":
        assert activate(plain_one, torch.tensor([3.0])).item() == 9.0


def test_the_clamped_gate() -> None:
    """gpt-oss at gate = up = 1; a gate is bounded above only, up on both sides."""
    value = FeedForward(1, ClampedGate())
    assert activate(value, torch.tensor([1.0, 1.0])).item() == pytest.approx(1.691592, abs=1e-6)
    assert activate(value, torch.tensor([99.0, 99.0])).item() == pytest.approx(8 * 7 / (1 + math.exp(-1.702 * 7)))
    assert activate(value, torch.tensor([1.0, -99.0])).item() == pytest.approx(-6 * 0.845796, abs=1e-5)


def test_norms() -> None:
    x = torch.tensor([3.0, 4.0])
    assert NormModule(Norm(eps=1e-12), 2)(x).tolist() == pytest.approx([0.848528, 1.131371], abs=1e-6)
    assert NormModule(Norm("layer", eps=1e-12), 2)(x).tolist() == pytest.approx([-1.0, 1.0], abs=1e-6)
    shifted = NormModule(Norm(offset=1.0), 2)
    assert shifted.weight is not None and shifted.weight.tolist() == [0.0, 0.0], "Gemma's 0 is another's 1"
    assert torch.allclose(shifted(x), NormModule(Norm(), 2)(x))
