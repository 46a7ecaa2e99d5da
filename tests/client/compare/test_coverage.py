"""The intervals hold the truth as often as they say, on simulated machines; seeded, so it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from client.compare.coverage import World, main, rates
from client.compare.judge.bootstrap import Interval, interval
from client.compare.judge.percentiles import percentile_interval


def test_intervals_cover_and_identical_architectures_are_not_told_apart() -> None:
    found = rates(World(rounds=5, request=0.05, round=0.05), simulations=120, draws=200)
    assert found.covered >= 0.92
    assert found.told_apart <= 0.08
    assert found.caught >= 0.6
    assert found.missed_at_smallest <= 0.35  # four times out of five it is shown
    assert found.tail_covered >= 0.92
    assert found.tail_caught >= 0.6
    assert found.any_told_apart <= 0.1
    assert min(found.percentiles) >= 0.92


@pytest.mark.parametrize("simulations", [1, 2, 3])
def test_a_few_simulations_are_a_rough_answer_and_no_error(simulations: int) -> None:
    found = rates(World(rounds=3, request=0.05, round=0.0), simulations, draws=50)
    assert 0 <= found.any_told_apart <= 1


@pytest.mark.parametrize("asked", ["0", "-3", "many"])
def test_no_simulations_are_refused_in_words(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["coverage", asked])
    with pytest.raises(SystemExit, match=f"at least 1, got {asked}"):
        main()


def test_few_rounds_do_not_lean_more_often_for_being_asked_more() -> None:
    """Three loads of identical architectures on a machine whose rounds differ: uncorrected, one report in five
    would lean somewhere."""
    world = World(rounds=3, request=0.05, round=0.05)
    assert rates(world, simulations=120, draws=100).any_told_apart <= 0.1


def test_a_percentile_stays_within_what_was_measured_or_has_no_end() -> None:
    rng = np.random.default_rng(0)
    rounds = [rng.exponential(size=20) + shift for shift in (0.0, 0.2, 0.0, 0.1, 3.0)]
    middle = percentile_interval(rounds, 0.5)
    assert min(map(np.min, rounds)) <= middle.low < middle.high <= max(map(np.max, rounds))
    assert percentile_interval(rounds, 0.99).high == float("inf")
    assert percentile_interval([np.arange(30.0)], 0.99).high == float("inf")
    many = percentile_interval([np.linspace(0, 1, 1001)] * 5, 0.99)
    assert 0.98 < many.low < 0.99 < many.high < 1.0


def test_one_round_bounds_nothing() -> None:
    bounds, error = interval([np.array([1.0, 2.0, 3.0])])
    assert bounds == Interval(float("-inf"), float("inf"))
    assert error == float("inf")


def test_rounds_without_spread_leave_no_doubt() -> None:
    bounds, error = interval([np.ones(4)] * 3)
    assert (bounds.low, bounds.high, error) == (1.0, 1.0, 0.0)


def test_fewer_rounds_are_less_sure() -> None:
    rng = np.random.default_rng(0)
    rounds = [rng.normal(size=20) + shift for shift in (0.1, -0.1) * 6]
    few, many = (interval(rounds[:n])[0] for n in (2, 12))
    assert few.high - few.low > 3 * (many.high - many.low)


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_the_interval_is_about_the_quantile(q: float) -> None:
    rounds = [np.linspace(0, 1, 101)] * 6
    bounds, _ = interval(rounds, q)
    assert bounds.low < q < bounds.high
