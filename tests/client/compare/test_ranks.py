"""Tests and quantiles with answers from tables and worked examples."""

from __future__ import annotations

from math import isnan, sqrt

import numpy as np
import pytest

from client.compare.judge.ranks import holm, signed_rank_p, signed_ranks
from client.compare.judge.student import mean, quantile, two_sided


@pytest.mark.parametrize(
    ("tail", "freedom", "value"),
    [(0.025, 1, 12.706), (0.025, 2, 4.303), (0.025, 4, 2.776), (0.025, 9, 2.262), (0.005, 3, 5.841), (0.2, 4, 0.941)],
)
def test_students_quantiles_are_those_of_the_tables(tail: float, freedom: int, value: float) -> None:
    assert quantile(tail, freedom) == pytest.approx(value, abs=5e-4)
    assert two_sided(value, freedom) == pytest.approx(2 * tail, rel=2e-3)


def test_students_ends() -> None:
    assert two_sided(0.0, 3) == pytest.approx(1.0)
    assert two_sided(float("inf"), 3) == 0.0
    with pytest.raises(ValueError, match="freedom must be at least 1, got 0"):
        two_sided(1.0, 0)
    with pytest.raises(ValueError, match=r"between 0 and 0\.5, got 0\.6"):
        quantile(0.6, 3)


def test_a_mean_by_hand() -> None:
    found = mean([1.0, 2.0, 3.0])
    assert (found.value, found.freedom) == (2.0, 2)
    assert found.error == pytest.approx(1 / sqrt(3))
    assert found.ends() == pytest.approx((2 - 4.303 / sqrt(3), 2 + 4.303 / sqrt(3)), abs=5e-4)
    assert found.ends(0.2) == pytest.approx((2 - 1.061 / sqrt(3), 2 + 1.061 / sqrt(3)), abs=5e-4)
    assert found.probability == pytest.approx(two_sided(2 * sqrt(3), 2))


def test_a_mean_without_spread_is_sure_and_one_of_a_single_value_is_not() -> None:
    assert mean([0.1] * 3).ends() == pytest.approx((0.1, 0.1))
    assert (mean([0.1] * 3).probability, mean([0.0] * 3).probability) == (0.0, 1.0)
    assert mean([5.0]).probability == 1.0
    assert all(map(isnan, mean([5.0]).ends()))


def test_signed_ranks_go_by_size_share_ties_and_pass_over_zero() -> None:
    ranks = signed_ranks([np.array([3.0, -1.0]), np.array([0.0, 1.0, -5.0])])
    assert [one.tolist() for one in ranks] == [[3.0, -1.5], [0.0, 1.5, -4.0]]


def test_the_rank_test_by_hand() -> None:
    # Ranks 1 2 3 4 with signs + + + -: sums of the two rounds 3 and -1, so t = 1 / 2 with one degree of freedom.
    p = signed_rank_p([np.array([1.0, 2.0]), np.array([3.0, -4.0])])
    assert p == pytest.approx(two_sided(0.5, 1))
    assert p == pytest.approx(0.7048, abs=1e-4)


def test_the_rank_test_without_spread_or_rounds() -> None:
    assert signed_rank_p([np.array([1.0])]) == 1.0
    assert signed_rank_p([np.array([0.0]), np.array([0.0])]) == 1.0
    assert signed_rank_p([np.array([1.0, 4.0]), np.array([2.0, 3.0])]) == 0.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([]) == ()
