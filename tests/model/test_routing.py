"""Known answers of the routing measures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.routing import PAD, busiest_share, dead, entropy, expert_choices, expert_loads, imbalance

CHOICES = np.array(
    [  # three tokens, two layers of three experts, top-2; the second layer has top-1
        [[0, 2], [1, PAD]],
        [[2, 1], [1, PAD]],
        [[2, ~0], [~1, PAD]],
    ],
    np.int16,
)


def test_loads_count_what_was_processed_and_what_was_lost() -> None:
    loads, lost = expert_loads(CHOICES, 3)
    assert loads.tolist() == [[1, 1, 3], [0, 2, 0]]
    assert lost.tolist() == [1, 1]
    assert (loads.sum(-1) + lost).tolist() == [3 * 2, 3 * 1]


def test_choices_count_lost_ones_too() -> None:
    assert expert_choices(CHOICES, 3).tolist() == [[2, 1, 3], [0, 3, 0]]


def test_no_tokens_are_no_load() -> None:
    loads, lost = expert_loads(CHOICES[:0], 3)
    assert loads.tolist() == [[0, 0, 0], [0, 0, 0]] and lost.tolist() == [0, 0]
    assert expert_choices(CHOICES[:0], 3).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ([5, 5, 5, 5], 1.0),
        ([20, 0, 0, 0], 0.0),
        ([10, 10, 0, 0], 0.5),
        ([1, 3], -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)),
        ([7], 1.0),
        ([0, 0], 0.0),
        ([0], 0.0),
    ],
    ids=str,
)
def test_entropy(load: list[int], expected: float) -> None:
    assert entropy(np.array(load)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("load", "uneven", "share"),
    [([5, 5, 5, 5], 1.0, 0.25), ([20, 0, 0, 0], 4.0, 1.0), ([1, 3], 1.5, 0.75), ([7], 1.0, 1.0), ([0, 0], 0.0, 0.0)],
    ids=str,
)
def test_imbalance_and_share(load: list[int], uneven: float, share: float) -> None:
    assert imbalance(np.array(load)) == uneven
    assert busiest_share(np.array(load)) == share


def test_the_dead_are_counted() -> None:
    assert dead(np.array([[0, 2, 0], [1, 1, 1]])).tolist() == [2, 0]


def test_lost_choices_count_as_choices() -> None:
    assert busiest_share(np.array([3, 1]), lost=2) == 0.5


def test_measures_reduce_the_last_axis_only() -> None:
    loads = np.array([[2, 2], [4, 0]])
    assert entropy(loads).tolist() == [1.0, 0.0]
    assert imbalance(loads).tolist() == [1.0, 2.0]
    assert busiest_share(loads, np.array([0, 4])).tolist() == [0.5, 0.5]
