from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.compare.judge.drift import drift
from client.facts import Usage
from client.load.record import Record
from tests.client.compare.factories import TOLD, record


def block(centre: float, spread: float, count: int = 20, seed: int = 0) -> list[Record]:
    """Requests of so many seconds, give or take `spread` on the log scale."""
    times = centre * np.exp(np.random.default_rng(seed).normal(0.0, spread, count))
    return [record(row, float(one), gap=0.0) for row, one in enumerate(times)]


def test_a_quiet_machine_is_not_noisy() -> None:
    assert not drift([block(1.0, 0.05, seed=n) for n in range(5)]).noisy


def test_blocks_apart_are_noisy() -> None:
    assert drift([block(1.0, 0.05), block(1.0, 0.05), block(1.2, 0.05)]).noisy


def test_the_worst_noise_is_noise_too() -> None:
    """Requests that differ wildly within each block would explain any difference between blocks."""
    found = drift([block(1.0, 1.0, seed=n) for n in range(2)] + [block(3.0, 1.0, seed=7)])
    assert found.noisy
    assert found.spread > 1.5


def test_one_noisy_block_does_not_hide_itself() -> None:
    assert drift([*(block(1.0, 0.02, seed=n) for n in range(4)), block(1.3, 0.5, seed=9)]).noisy


def test_a_request_or_two_a_round_say_nothing() -> None:
    found = drift([block(1.0, 0.0, count=1), block(1.4, 0.0, count=1), block(5.0, 0.0, count=3)])
    assert (found.noisy, found.spread) == (False, 1.0)
    assert found.medians == pytest.approx((1.0, 1.4, 5.0))


def test_longer_answers_are_no_noise() -> None:
    def answers(tokens: int) -> list[Record]:
        facts = replace(TOLD, usage=Usage(8, tokens, 0))
        return [replace(r, facts=facts) for r in block(0.01 * tokens, 0.02)]

    assert not drift([answers(10), answers(40), answers(20)]).noisy
