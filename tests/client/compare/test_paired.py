"""Differences with known answers, and how often the verdict is wrong when there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from client.compare.judge.bootstrap import Interval
from client.compare.judge.paired import Round, compare, corrected, pair
from tests.client.compare.factories import record


def rounds(ratio: float, count: int, *, noise: float = 0.0, drift: float = 0.0, seed: int = 0) -> list[Round]:
    """Rounds of 20 pairs; the other takes `ratio` times as long, give or take noise per pair and drift per round."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        base = rng.uniform(0.1, 1.0, 20)
        shift = np.exp(rng.normal(0, drift)) * np.exp(rng.normal(0, noise, 20))
        made.append(Round(base, base * ratio * shift))
    return made


def test_a_difference_without_noise_is_found_exactly() -> None:
    one = Round(np.array([1.0, 2.0, 3.0]), np.array([1.5, 3.0, 4.5]))
    found = compare("total", [one] * 5)
    assert (found.pairs, found.rounds) == (15, 5)
    assert found.difference == pytest.approx(1.0)
    assert found.ratio == pytest.approx(1.5)
    assert (found.ratio_interval.low, found.ratio_interval.high) == pytest.approx((1.5, 1.5))
    assert found.verdict == "slower"


@pytest.mark.parametrize(
    ("ratio", "count", "verdict"),
    [
        (0.8, 5, "faster"),
        (1.25, 5, "slower"),
        (1.0, 5, "no difference shown"),
        (0.8, 3, "seems faster"),
        (2.0, 2, "seems slower"),
        (1.25, 1, "no difference shown"),
    ],
)
def test_verdicts(ratio: float, count: int, verdict: str) -> None:
    assert compare("total", rounds(ratio, count, noise=0.05, drift=0.01)).verdict == verdict


def test_the_interval_holds_the_truth() -> None:
    found = compare("total", rounds(1.1, 8, noise=0.1, drift=0.02))
    assert found.ratio_interval.low < 1.1 < found.ratio_interval.high
    assert found.ratio_interval.high / found.ratio_interval.low < 1.1


def test_the_seed_decides() -> None:
    data = rounds(1.1, 5, noise=0.2)
    assert compare("total", data, seed=1) == compare("total", data, seed=1)
    assert compare("total", data, seed=1) != compare("total", data, seed=2)


def test_nothing_paired_is_no_difference() -> None:
    empty = Round(np.array([]), np.array([]))
    for data in ([], [empty]):
        found = compare("total", data)
        assert (found.pairs, found.verdict) == (0, "no difference shown")
        assert math.isnan(found.ratio)


def test_a_machine_that_drifts_is_seldom_taken_for_a_difference() -> None:
    """With no difference at all and rounds that drift by 5 %, a verdict should mislead in one run of twenty."""
    verdicts = [compare("total", rounds(1.0, 5, noise=0.02, drift=0.05, seed=s), draws=200).verdict for s in range(200)]
    wrong = sum(verdict != "no difference shown" for verdict in verdicts)
    assert wrong / len(verdicts) <= 0.07


def test_rounds_of_unequal_length_weigh_by_their_requests() -> None:
    long, short = Round(np.ones(9), np.full(9, 2.0)), Round(np.ones(1), np.full(1, 8.0))
    found = compare("total", [long, short] * 2)  # one draw in sixteen has short rounds alone
    assert found.pairs == 20
    assert found.ratio == pytest.approx(2.0)
    assert found.ratio_interval.low == pytest.approx(2.0)
    assert found.ratio_interval.high > 8.0  # the widening of four rounds


def test_rows_are_paired_by_number_and_the_lost_ones_left_out() -> None:
    baseline = [record(0, 0.1), record(1, 0.2, error="lost"), record(2, 0.3)]
    other = [record(2, 0.6), record(0, 0.4), record(1, 0.5), record(3, 0.7)]
    one = pair("first_token", baseline, other)
    assert one.baseline.tolist() == [0.1, 0.3]
    assert one.other.tolist() == [0.4, 0.6]


def test_a_time_too_short_for_the_clock_is_a_short_time_and_no_missing_one() -> None:
    """Tokens that came at once: 8 of 10 answers of the other side. It is the faster one."""
    baseline = [record(row, 0.1, gap=0.01) for row in range(10)]
    other = [record(row, 0.1, gap=0.02 if row < 2 else 0.0) for row in range(10)]
    one = compare("per_token", [pair("per_token", baseline, other)])
    assert (one.pairs, one.lost) == (10, 0) and one.ratio < 1e-3


def test_an_interval_leaves_out_what_is_outside() -> None:
    assert Interval(1.1, 1.2).without(1.0)
    assert not Interval(0.9, 1.2).without(1.0)


def test_many_questions_ask_for_more_proof() -> None:
    alone = replace(compare("total", rounds(1.1, 5, noise=0.05)), probability=0.01)
    assert corrected([alone])[0].verdict == "slower"
    among = corrected([alone, *[compare("total", rounds(1.0, 5, noise=0.05, seed=s)) for s in range(20)]])[0]
    assert among.adjusted == pytest.approx(0.21)
    assert among.smallest > alone.smallest > 1.0
    assert among.verdict == "no difference shown"
    assert among.said == "no difference shown (p 0.21 after correction)"


def test_a_verdict_that_correction_took_away_says_so() -> None:
    """Beside an interval that leaves out 1 it would look like a contradiction; beside one that does not, it needs no
    reason."""
    apart = replace(compare("total", rounds(1.1, 5, noise=0.05)), adjusted=0.19)
    assert apart.shown and apart.said == "no difference shown (p 0.19 after correction)"
    assert replace(apart, adjusted=0.01).said == "slower"
    assert replace(apart, ratio_interval=Interval(0.9, 1.2)).said == "no difference shown"
    few = replace(apart, rounds=3, reach=1.0)
    assert few.shown and few.said == "no difference shown (after correction)"


def test_what_could_have_been_seen_shrinks_with_rounds() -> None:
    few, many = (compare("total", rounds(1.0, n, noise=0.05, drift=0.02)).smallest for n in (3, 12))
    assert 1.0 < many < few
