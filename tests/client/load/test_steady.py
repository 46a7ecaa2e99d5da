from __future__ import annotations

from dataclasses import replace

import numpy as np

from client.load.arrivals import Closed, Poisson
from client.load.judgement import client_bound, warnings
from client.load.record import Record, Run
from client.load.steady import overloaded, settled_after


def records(times: list[float]) -> list[Record]:
    return [Record(i, float(i), float(i), (i + t / 2, i + t), i + t) for i, t in enumerate(times)]


def run(made: list[Record], **changes: object) -> Run:
    whole = Run("http://x", "m", Poisson(1.0), "hash", tuple(made), 100.0, "2026-01-01", 1.0, False)
    return replace(whole, **changes)  # type: ignore[arg-type]


NOISE = np.random.default_rng(3).normal(1.0, 0.02, 200)


def test_a_slow_start_is_left_out() -> None:
    assert settled_after(records([*(5.0,) * 20, *NOISE[:180]])) == 20


def test_a_run_that_is_alike_throughout_has_settled_early() -> None:
    after = settled_after(records(list(NOISE)))
    assert after is not None
    assert after <= 60


def test_a_run_that_keeps_growing_never_settles() -> None:
    growing = records([1.0 + i / 10 for i in range(100)])
    assert settled_after(growing) is None
    assert overloaded(growing)
    assert any("ever longer" in said for said in warnings(run(growing)))
    assert not any("ever longer" in said for said in warnings(run(growing, arrivals=Closed(4))))


def test_of_little_nothing_is_said() -> None:
    assert settled_after(records([1.0] * 39)) is None
    assert not overloaded(records([1.0 + i for i in range(39)]))


def test_a_client_that_used_its_core_is_told() -> None:
    assert not client_bound(run(records(list(NOISE))))
    bound = run(records(list(NOISE)), client_cpu=95.0)
    assert client_bound(bound)
    assert any("it, not the server" in said for said in warnings(bound))
