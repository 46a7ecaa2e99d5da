from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from client.compare.judge.findings import conclude
from client.compare.measure.bench import measure
from client.compare.measure.searching import Tried, bounds, in_words, judged, next_rate, outcomes, to_try, unsteady
from client.compare.plan.parts import Search, search
from client.compare.plan.section import Section
from client.compare.tell.cautions import cautions
from client.compare.tell.figures import figures
from client.compare.tell.tables import models_grid
from client.compare.tell.tidy import numbers
from client.compare.tell.verdicts import summary
from client.load.record import Record, Run
from client.load.statistics import Objective
from tests.client.compare.factories import TOLD, record, results, run
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


async def test_a_control_is_not_searched_for(fake: FakeServer) -> None:
    wanted = Search(low=20.0, high=40.0, share=0.9, seconds=0.1)
    experiment = on(fake, "a", "b", "a again", repeats=1, search=wanted, objective=Objective(total=10.0), control=2)
    findings = conclude(await measure(experiment))
    assert {one.architecture for one in findings.results.tried} == {0, 1}
    [said] = [line for line in summary(findings) if line.startswith("Highest rate")]
    assert "a again" not in said
    [drawn] = [one for one in figures(findings) if one.title.startswith("Highest rate")]
    assert "a again" not in drawn.sentence
    assert {line.architecture for line in numbers(findings) if line.metric == "highest rate"} == {"a", "b"}
    rows = {row[0]: row[1:] for row in models_grid(findings).rows}
    assert rows["highest rate within the objective"][2] == "not tried"


async def test_every_architecture_finds_its_own_rate(fake: FakeServer) -> None:
    """The fake takes any number at once: a quick one holds every rate, a slow one none."""
    wanted = Search(low=20.0, high=80.0, share=0.9, seconds=0.1)
    experiment = on(fake, "quick", "slow", repeats=1, search=wanted, objective=Objective(first_token=0.15))
    fake.behave(slowdown={"slow": 15.0})
    findings = conclude(await measure(experiment))
    assert bounds(outcomes(findings.results.tried, 0)) == (80.0, inf)
    assert [one.requests for one in findings.results.tried if one.architecture == 0] == [6, 6, 8, 8]
    assert bounds(outcomes(findings.results.tried, 1)) == (0.0, 20.0)


def test_a_rate_is_kept_up_long_enough_for_a_queue() -> None:
    """A server of 20/s, each request 50 ms: 45/s looks well over 16 requests, and does not over five seconds."""

    def served(rate: float, count: int) -> Run:
        free, records = 0.0, []
        for row in range(count):
            due = row / rate
            free = max(free, due) + 1 / 20
            records.append(Record(row, due, due, (free,), free, TOLD))
        return run(records)

    objective = Objective(first_token=0.5)
    assert judged(SEARCH, objective, 0, 45.0, served(45.0, 16)).held
    assert SEARCH.requests(45.0, 16) == 225
    told = judged(SEARCH, objective, 0, 45.0, served(45.0, SEARCH.requests(45.0, 16)))
    assert not told.held
    assert (told.requests, told.failed, told.waited_longer) == (225, 0, True)
    assert judged(SEARCH, objective, 0, 19.0, served(19.0, SEARCH.requests(19.0, 16))).held


def test_the_objective_says_how_long_at_least() -> None:
    def seconds(**limits: float) -> float:
        return search(Section({"low": 1.0, "high": 2.0}), Objective(**limits)).seconds

    assert seconds(first_token=0.5) == 5.0
    assert seconds(first_token=0.5, total=10.0) == 80.0
    assert seconds(per_token=0.5) == 5.0


def test_the_rates_that_it_ends_between_are_tried_twice() -> None:
    low, high = Tried(0, 1.0, 1.0, True), Tried(0, 1.09, 0.5, False)
    assert to_try(SEARCH, [low, high], 0) == 1.0
    assert to_try(SEARCH, [low, high, low], 0) == 1.09
    assert to_try(SEARCH, [low, high, low, high], 0) is None
    assert to_try(SEARCH, [replace(low, held=False)], 0) == 1.0
    assert to_try(SEARCH, [replace(low, held=False)] * 2, 0) is None


def test_one_bad_moment_of_the_machine_decides_nothing() -> None:
    """Two of three do; a rate that held and failed is tried once more before anything else."""
    held, failed = Tried(0, 8.0, 1.0, True), Tried(0, 8.0, 0.5, False)
    lower, higher = Tried(0, 4.0, 1.0, True), Tried(0, 8.7, 0.5, False)
    assert to_try(SEARCH, [lower, held, higher, failed], 0) == 8.0
    assert bounds(outcomes([lower, held, higher, failed, held], 0)) == (8.0, 8.7)
    assert bounds(outcomes([lower, held, higher, failed, failed], 0)) == (4.0, 8.0)
    assert unsteady([lower, held, higher, failed], 0) == [8.0]


@pytest.mark.parametrize("seed", range(20))
def test_the_search_ends_however_the_machine_behaves(seed: int) -> None:
    rng, tried = np.random.default_rng(seed), list[Tried]()
    while (rate := to_try(SEARCH, tried, 0)) is not None:
        tried.append(Tried(0, rate, 1.0, bool(rng.random() < 0.5)))
        assert len(tried) < 100
    assert max(Counter(one.rate for one in tried).values()) <= 3


def test_who_left_before_is_not_asked_whether_it_was_good_enough() -> None:
    left = [replace(record(row, 0.1), cancelled=True, facts=None, may_leave=True) for row in range(3)]
    records = [*left, *(record(row, 0.1) for row in range(3, 10))]
    told = judged(SEARCH, Objective(first_token=0.5), 0, 2.0, run(records))
    assert told.held and told.share == 1.0


def test_what_was_found_is_told_in_words() -> None:
    assert in_words(8.0, 8.5) == "8.00/s held, 8.50/s did not"
    assert in_words(64.0, inf) == "64.0/s held, the highest that was tried"
    assert in_words(0.0, 1.0) == "below 1.00/s"
    whole = results()
    whole.tried = [Tried(0, 8.0, 1.0, True), Tried(1, 8.0, 0.1, False, warnings=("the client sent late",))]
    said = "\n".join(summary(conclude(whole)))
    assert (
        "Highest rate within the objective: arch0 8.00/s held, the highest that was tried; arch1 below 8.00/s." in said
    )
    assert "arch1, searching, 1 of 1 times: the client sent late" in cautions(conclude(whole))
    whole.tried += [replace(one, held=not one.held) for one in whole.tried]
    assert "arch0, searching: held at one time and failed at another: 8.00/s" in cautions(conclude(whole))


def test_a_client_that_was_held_up_differently_has_one_caution() -> None:
    whole = results()
    runs = [replace(run([record(0, 0.1)]), held_up=held) for held in (0.1, 0.2)]
    whole.tried = [judged(SEARCH, Objective(first_token=0.5), 0, 2.0, one) for one in runs]
    said = [one for one in cautions(conclude(whole)) if "held up" in one]
    assert said == ["arch0, searching, 2 of 2 times: the client was held up itself, so what came meanwhile seems late"]
