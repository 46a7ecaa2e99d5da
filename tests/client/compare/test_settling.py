from __future__ import annotations

from dataclasses import replace

import numpy as np

from client.compare.judge.findings import conclude
from client.compare.judge.settling import one_burst, shortest, start
from client.compare.tell.cautions import cautions
from client.load.arrivals import Closed, Poisson
from client.load.record import Record
from tests.client.compare.factories import closed, record, results


def round_of(factor: float, seed: int, count: int = 40) -> list[Record]:
    """Requests of about a second, the first tenth `factor` times as long."""
    times = np.exp(np.random.default_rng(seed).normal(0, 0.2, count))
    times[: count // 10] *= factor
    return [replace(record(row, float(t), gap=0.0), intended=0.0) for row, t in enumerate(times)]


def test_a_start_that_is_quicker_or_slower_is_seen() -> None:
    assert 0.4 < start([round_of(0.5, seed) for seed in range(5)]) < 0.6
    assert 1.6 < start([round_of(2.0, seed) for seed in range(5)]) < 2.4


def test_chance_is_no_start() -> None:
    alarms = [start([round_of(1.0, 100 * n + seed) for seed in range(5)]) != 1.0 for n in range(60)]
    assert sum(alarms) <= 2


def test_too_little_says_nothing() -> None:
    assert start([round_of(0.5, seed) for seed in range(4)]) == 1.0
    assert start([round_of(0.5, seed, count=30) for seed in range(5)]) == 1.0
    assert start([]) == 1.0


def test_what_is_sent_at_once_is_no_steady_load() -> None:
    assert one_burst(Closed(8), 31) and not one_burst(Closed(8), 32)
    assert not one_burst(Poisson(8.0), 1)
    said = cautions(conclude(closed(results())))
    assert [one.partition(":")[0] for one in said] == ["4 requests a round at 2 at a time"]


def test_a_round_that_is_over_at_once_is_no_steady_load() -> None:
    """However often it is repeated; a round that was stopped is no such round."""
    whole = results()
    last = whole.measured[-1]
    whole.measured[-1] = replace(last, run=replace(last.run, seconds=0.6, interrupted=True))
    assert shortest([m.run for m in whole.measured]) == 6.0 and shortest([]) == float("inf")
    whole.measured[-1] = replace(last, run=replace(last.run, seconds=0.6))
    assert cautions(conclude(whole)) == (
        "rounds of 0.600 s at 2/s, Poisson: below 5 s they mostly show how a load starts and stops",
    )


def test_it_is_among_the_cautions() -> None:
    whole = results((0.1, 0.1))
    for n, m in enumerate(whole.measured):
        if m.cell.architecture == 1:
            whole.measured[n] = replace(m, run=replace(m.run, records=tuple(round_of(2.0, n))))
    said = [one for one in cautions(conclude(whole)) if "too short to be steady" in one]
    assert len(said) == 1
    assert said[0].startswith("arch1 at 2/s, Poisson: a round's first tenth took")
