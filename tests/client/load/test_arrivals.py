from __future__ import annotations

import numpy as np
import pytest

from client.load.arrivals import (
    Arrivals,
    Closed,
    Constant,
    Drawn,
    Gamma,
    Poisson,
    Ramp,
    Recorded,
    describe,
    from_json,
    offsets,
    to_json,
)


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


def test_a_ramp_grows_evenly_and_keeps_its_mean() -> None:
    instants = offsets(Ramp(1.0, 3.0), 41, 0)
    assert instants[0] == 0
    assert instants[-1] == pytest.approx(2 * 40 / 4)
    assert instants[1] == pytest.approx(1.0, rel=0.1)
    assert instants[-1] - instants[-2] == pytest.approx(1 / 3, rel=0.05)
    assert offsets(Ramp(2.0, 2.0), 5, 0) == pytest.approx((0, 0.5, 1, 1.5, 2))
    assert offsets(Ramp(3.0, 1.0), 41, 0)[-1] == pytest.approx(20.0, rel=1e-3)


@pytest.mark.parametrize(
    "law", [Constant(1.5), Poisson(2.0), Gamma(2.0, 0.5), Ramp(1.0, 4.0), Closed(3), Recorded()], ids=describe
)
def test_every_law_is_read_back(law: Arrivals) -> None:
    assert from_json(to_json(law)) == law
