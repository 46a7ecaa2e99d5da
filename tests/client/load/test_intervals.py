from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest

from client.load.intervals import places, quantile_interval


def test_the_median_of_ten_by_hand() -> None:
    # P(1 < B < 9) for B binomial (10, 1/2) is 0.979, P(2 < B < 8) only 0.891: the second and the ninth value.
    assert places(10, 0.5, 0.95) == (1, 8)
    assert quantile_interval([float(n) for n in range(10, 0, -1)], 0.5) == (2.0, 9.0)


def test_what_too_few_values_cannot_bound_is_unbounded() -> None:
    low, high = quantile_interval([0.1 * n for n in range(100)], 0.99)
    assert low > 9.0
    assert high == inf
    assert quantile_interval([1.0], 0.5) == (-inf, inf)
    assert all(isnan(end) for end in quantile_interval([], 0.5))


@pytest.mark.parametrize(("count", "q"), [(60, 0.5), (200, 0.9), (400, 0.95)])
def test_the_interval_covers_as_often_as_it_says(count: int, q: float) -> None:
    rng = np.random.default_rng(7)
    truth = -np.log(1 - q)  # of the exponential distribution
    ends = [quantile_interval(rng.exponential(size=count).tolist(), q) for _ in range(400)]
    held = sum(low <= truth <= high for low, high in ends) / len(ends)
    assert 0.93 <= held <= 0.99
