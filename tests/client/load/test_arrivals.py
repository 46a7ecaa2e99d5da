from __future__ import annotations

import numpy as np
import pytest

from client.load.arrivals import Closed, Constant, Drawn, Gamma, Poisson, offsets


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert offsets(Constant(4.0), 4, seed=0) == (0.0, 0.25, 0.5, 0.75)


def test_a_closed_loop_has_no_instants_of_its_own() -> None:
    assert offsets(Closed(3), 4, seed=0) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("arrivals", [Constant(5.0), Poisson(5.0), Gamma(5.0, 0.25), Gamma(5.0, 4.0)])
def test_the_mean_gap_is_exactly_one_over_the_rate(arrivals: Drawn) -> None:
    instants = offsets(arrivals, 101, seed=3)
    assert instants[0] == 0.0
    assert instants[-1] == pytest.approx(100 / 5.0)
    assert list(instants) == sorted(instants)


@pytest.mark.parametrize(
    ("arrivals", "variation"), [(Poisson(2.0), 1.0), (Gamma(2.0, 0.25), 2.0), (Gamma(2.0, 4.0), 0.5)]
)
def test_the_gaps_vary_as_their_law_says(arrivals: Drawn, variation: float) -> None:
    gaps = np.diff(offsets(arrivals, 20_000, seed=1))
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)


def test_the_seed_decides() -> None:
    assert offsets(Poisson(1.0), 10, seed=1) == offsets(Poisson(1.0), 10, seed=1)
    assert offsets(Poisson(1.0), 10, seed=1) != offsets(Poisson(1.0), 10, seed=2)


@pytest.mark.parametrize("count", [0, 1])
def test_few_requests_are_due_at_once(count: int) -> None:
    assert offsets(Poisson(1.0), count, seed=1) == (0.0,) * count


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be positive"):
        Poisson(rate)
