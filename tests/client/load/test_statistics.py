"""Numbers that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rich.progress import Progress

from client.facts import facts_from_json
from client.load.arrivals import Poisson
from client.load.judgement import of_the_prompts, warnings
from client.load.record import Record, Run
from client.load.session import Errors
from client.load.statistics import Distribution, Objective, gaps, percentile, summarise
from tests.client.answers import facts

TOLD = facts_from_json(facts(prompt_tokens=10, completion_tokens=3))

# Intended at 1, sent 0.25 late, pieces after 0.5, 0.75 and 1.5 seconds, done after 2.
GOOD = Record(0, 1.0, 1.25, (1.5, 1.75, 2.5), 3.0, TOLD)
FAILED = Record(1, 2.0, 2.0, (2.5,), 2.75, None, "the server failed")


@pytest.mark.parametrize(("q", "value"), [(0.0, 1.0), (0.5, 2.5), (0.25, 1.75), (0.9, 3.7), (1.0, 4.0)])
def test_percentiles_lie_between_the_two_nearest_values(q: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], q) == pytest.approx(value)


def test_a_distribution_of_one_to_a_hundred() -> None:
    spread = Distribution.of([float(i) for i in range(1, 102)])
    assert (spread.count, spread.mean, spread.maximum) == (101, 51.0, 101.0)
    assert (spread.p50, spread.p90, spread.p95, spread.p99) == (51.0, 91.0, 96.0, 100.0)


def test_nothing_has_no_percentiles() -> None:
    assert math.isnan(percentile([], 0.5))
    spread = Distribution.of([])
    assert spread.count == 0
    assert math.isnan(spread.p50)


def test_latencies_count_from_the_intended_send() -> None:
    assert (GOOD.lag, GOOD.first_token, GOOD.total, GOOD.per_token) == (0.25, 0.5, 2.0, 0.5)
    assert gaps(GOOD) == (0.25, 0.75)


def test_a_summary_worked_out_by_hand() -> None:
    summary = summarise([GOOD, FAILED], seconds=2.0)
    assert (summary.requests, summary.completed, summary.errors) == (2, 1, 1)
    assert (summary.request_rate, summary.output_rate, summary.total_rate, summary.goodput) == (0.5, 1.5, 6.5, 0.5)
    assert summary.goodput_share == 0.5
    assert (summary.first_token.p50, summary.inter_token.mean, summary.total.p99) == (0.5, 0.5, 2.0)
    assert (summary.first_token.count, summary.lag.count) == (1, 2)
    assert (summary.cached_share, summary.entropy, summary.imbalance) == (0.2, 0.4, 3.0)


def test_who_left_has_no_part_in_the_share_that_met_the_objective() -> None:
    left = replace(FAILED, error="", cancelled=True)
    assert summarise([GOOD, left], 2.0).goodput_share == 1.0
    assert summarise([GOOD, FAILED, left], 2.0).goodput_share == 0.5
    assert math.isnan(summarise([left], 2.0).goodput_share)


def test_who_left_is_no_failure_on_the_bar() -> None:
    bar = Progress()
    errors = Errors(bar, bar.add_task("load", total=3))
    errors.saw(GOOD)
    errors.saw(replace(GOOD, cancelled=True))
    assert bar.tasks[0].fields["errors"] == ""
    errors.saw(FAILED)
    assert bar.tasks[0].fields["errors"] == "1 failed"


def test_nothing_measured_is_no_number_and_no_crash() -> None:
    summary = summarise([], seconds=0.0)
    assert summary.requests == 0
    assert math.isnan(summary.output_rate)
    assert math.isnan(summary.entropy)


@pytest.mark.parametrize(
    ("objective", "met"),
    [
        (Objective(), True),
        (Objective(first_token=0.5, per_token=0.5, total=2.0), True),
        (Objective(first_token=0.49), False),
        (Objective(per_token=0.49), False),
        (Objective(total=1.99), False),
    ],
)
def test_an_objective_needs_every_limit(objective: Objective, met: bool) -> None:
    assert objective.met(GOOD) is met
    assert not objective.met(FAILED)


def test_tokens_that_nobody_saw_come_meet_no_limit_on_them() -> None:
    unseen = Record(0, 0.0, 0.0, (), 30.0, TOLD)
    assert not Objective(first_token=0.5).met(unseen) and not Objective(per_token=0.5).met(unseen)
    assert Objective(total=31.0).met(unseen)


def _run(*records: Record, interrupted: bool = False, client_cpu: float = 0.1) -> Run:
    return Run("t", "m", Poisson(1.0), "hash", records, 10.0, "now", client_cpu, interrupted)


def test_a_quiet_run_warns_of_nothing() -> None:
    assert warnings(_run(Record(0, 1.0, 1.001, (1.5, 1.6, 1.7), 2.0, TOLD))) == ()
    assert warnings(_run()) == ()


def test_a_run_one_cannot_believe_says_so() -> None:
    late, busy, stopped = warnings(_run(GOOD)), warnings(_run(client_cpu=9.5)), warnings(_run(interrupted=True))
    assert "sent late" in late[0]
    assert "whole core" in busy[0]
    assert "stopped" in stopped[0]


def test_prompts_that_were_there_already_are_told() -> None:
    assert of_the_prompts(summarise([GOOD], 2.0)) == [
        "20% of the prompts were cached, from an earlier run perhaps; --seed N sends others"
    ]
    fresh = facts_from_json(facts(prompt_tokens=40, completion_tokens=3))  # 2 of 40: no more than chance
    assert of_the_prompts(summarise([Record(0, 1.0, 1.0, (1.5,), 2.0, fresh)], 2.0)) == []
    assert of_the_prompts(summarise([FAILED], 2.0)) == []
