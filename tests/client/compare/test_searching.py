from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from client.compare.bench import measure
from client.compare.parts import Search
from client.compare.results import conclude
from client.compare.searching import bounds, judged, next_rate, outcomes
from client.load.statistics import Objective
from tests.client.compare.factories import record, run
from tests.client.compare.test_bench import on
from tests.client.fake_server import FakeServer

SEARCH = Search(low=1.0, high=64.0, tolerance=0.1)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.7, 20.0, 63.0, 100.0])
def test_the_search_closes_in_on_the_truth(truth: float) -> None:
    held: dict[float, bool] = {}
    while (rate := next_rate(SEARCH, held)) is not None:
        held[rate] = rate <= truth
        assert len(held) < 15
    low, high = bounds(held)
    if truth < SEARCH.low:
        assert (low, high) == (0.0, 1.0)
    elif truth > SEARCH.high:
        assert (low, high) == (64.0, inf)
    else:
        assert low <= truth < high <= low * 1.1001 or low == 64.0


def test_a_rate_above_one_that_failed_does_not_count() -> None:
    assert bounds({2.0: True, 4.0: False, 8.0: True}) == (2.0, 4.0)


def test_a_rate_holds_when_enough_requests_meet_the_objective() -> None:
    records = [record(row, 0.1 if row else 0.9) for row in range(10)]
    objective = Objective(first_token=0.5)
    assert not judged(replace(SEARCH, share=0.95), objective, 0, 2.0, run(records)).held
    told = judged(replace(SEARCH, share=0.9), objective, 0, 2.0, run(records))
    assert told.held
    assert told.share == pytest.approx(0.9)


async def test_every_architecture_finds_its_own_rate(fake: FakeServer) -> None:
    """The fake takes any number at once: a quick one holds every rate, a slow one none."""
    search = Search(low=20.0, high=80.0, share=0.9)
    experiment = on(fake, "quick", "slow", repeats=1, search=search, objective=Objective(first_token=0.15))
    fake.behave(slowdown={"slow": 15.0})
    findings = conclude(await measure(experiment))
    assert bounds(outcomes(findings.results.tried, 0)) == (80.0, inf)
    assert bounds(outcomes(findings.results.tried, 1)) == (0.0, 20.0)
