"""Quality for cost: who dominates whom, and what a bit costs, as far as both are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import orjson
import pytest

from client.compare.judge.findings import conclude
from client.compare.judge.words import Verdict
from client.compare.judge.worth import cost, in_words
from client.compare.measure.quality import Quality
from client.compare.measure.results import Measured, Results
from client.compare.plan.schedule import Cell
from client.compare.tell.brief import besides
from client.compare.tell.document import document
from client.compare.tell.figures import figures
from client.compare.tell.tidy import numbers
from client.load.arrivals import Closed, Poisson
from client.load.statistics import Objective
from tests.client.compare.factories import closed, results
from tests.client.compare.test_bits import ELSEWHERE, HARD, WORSE, quality, worded


def made(other: Quality | None, time: float | Sequence[float], base: Quality | None = None) -> Results:
    """The other takes so many times as long, a little more in one round than in another; or so many in each round."""
    times = [time * (1 + n / 100) for n in range(5)] if isinstance(time, float) else time
    whole = closed(results((0.1, 0.1), len(times)))
    whole.qualities = (base or quality(*HARD), other)
    for n, m in enumerate(whole.measured):
        longer = times[m.cell.repeat] if m.cell.architecture else 1.0
        whole.measured[n] = replace(m, run=replace(m.run, seconds=2 * longer))
    return whole


def again(whole: Results, architecture: int, faster: float) -> Results:
    """Also at sixteen at a time: one architecture so many times faster than before, the other as it was."""
    for m in list(whole.measured):
        seconds = m.run.seconds / faster if m.cell.architecture == architecture else m.run.seconds
        told = replace(m.run, seconds=seconds, arrivals=Closed(16))
        whole.measured.append(Measured(Cell(m.cell.repeat, 1, m.cell.architecture), told))
    whole.experiment = replace(whole.experiment, levels=(Closed(2), Closed(16)))
    return whole


def said(whole: Results) -> tuple[str, ...]:
    told = in_words(conclude(whole).worths, whole)
    assert set(told) <= set(besides(conclude(whole)))
    return told


@pytest.mark.parametrize(
    ("base", "other", "time", "told"),
    [
        (HARD, WORSE, 0.5, "arch1 against arch0: 1.07 % more bits per byte for 0.510 times the time a token."),
        (
            HARD,
            WORSE,
            2.0,
            "arch0 dominates arch1: arch1 has 1.07 % more bits per byte and takes 2.04 times the time a token.",
        ),
        (
            WORSE,
            HARD,
            0.5,
            "arch1 dominates arch0: arch1 has 1.06 % fewer bits per byte and takes 0.510 times the time a token.",
        ),
        (WORSE, HARD, 2.0, "arch1 against arch0: 1.06 % fewer bits per byte for 2.04 times the time a token."),
        (
            HARD,
            ELSEWHERE,
            0.5,
            "arch1 against arch0: no difference in bits per byte shown, 0.510 times the time a token.",
        ),
        (HARD, WORSE, 0.98, "arch1 against arch0: 1.07 % more bits per byte, no difference in time shown."),
        (
            HARD,
            ELSEWHERE,
            0.98,
            "arch1 against arch0: no difference in bits per byte shown, no difference in time shown.",
        ),
        (
            HARD,
            WORSE,
            (0.5, 0.501),
            "arch1 against arch0: 1.07 % more bits per byte, seems faster (0.500 times the time a token).",
        ),
    ],
)
def test_what_is_said_of_both_needs_both_to_be_shown(
    base: tuple[float, ...], other: tuple[float, ...], time: float | Sequence[float], told: str
) -> None:
    assert said(made(quality(*other), time, quality(*base))) == (told,)


def test_time_is_judged_as_the_tables_judge_it() -> None:
    """One closed loop and no objective: it is the throughput, which other comparisons of the report are corrected
    for."""
    findings = conclude(made(quality(*WORSE), [exp(one) for one in (0.01, 0.05, 0.06, 0.02, 0.07)]))
    [throughput] = [one for one in findings.differences[1, 0] if one.metric == "throughput"]
    assert findings.worths[1].time == throughput
    assert (throughput.verdict, round(throughput.probability, 3)) == (Verdict.NOT_SHOWN, 0.022)
    [told] = in_words(findings.worths, findings.results)
    assert told.endswith("no difference in time shown.")


def test_a_comparison_that_no_table_has_is_corrected_along_with_those_of_the_tables() -> None:
    whole = made(quality(*WORSE), [exp(one) for one in (0.01, 0.05, 0.06, 0.02, 0.07)])
    whole.experiment = replace(whole.experiment, objective=Objective(first_token=1.0))
    [_, one] = conclude(whole).worths
    assert one.time is not None and one.time.metric == "cost"
    assert one.time.probability == pytest.approx(0.0222, abs=1e-4)
    assert one.time.adjusted == pytest.approx(5 * one.time.probability), "with the four of the tables"


def failing(whole: Results, architecture: int, level: int) -> Results:
    """One request of its first round."""
    for n, m in enumerate(whole.measured):
        if m.cell == Cell(0, level, architecture):
            records = (replace(m.run.records[0], error="full"), *m.run.records[1:])
            whole.measured[n] = replace(m, run=replace(m.run, records=records))
    return whole


def test_a_load_under_which_requests_failed_has_no_cost() -> None:
    assert said(failing(made(quality(*WORSE), 0.5), 1, 0)) == ()
    assert said(failing(made(quality(*WORSE), 0.5), 0, 0)) == ()
    found = cost(failing(again(made(quality(*WORSE), 0.5), 1, 2.0), 1, 1), 1)
    assert found is not None and found.level == 0


def test_which_loads_these_are_is_said_where_they_are_not_the_same() -> None:
    assert len(said(again(made(quality(*WORSE), 0.5), 2, 1.0))) == 1
    assert said(again(made(quality(*WORSE), 0.5), 1, 2.0)) == (
        "arch1 against arch0: 1.07 % more bits per byte for 0.255 times the time a token.",
        "The time a token is of each where it takes least: arch0 at 2 at a time, arch1 at 16 at a time.",
    )


def test_weights_that_know_nothing_and_what_was_not_judged_are_left_out() -> None:
    def left(whole: Results) -> int:
        return len(conclude(whole).worths)

    random = quality(*(bits + 10 for bits in HARD))
    assert left(made(quality(*WORSE), 0.5)) == 2
    assert left(made(random, 0.5)) == 0
    assert left(made(quality(*WORSE), 0.5, random)) == 0
    assert left(made(None, 0.5)) == 0
    assert left(made(Quality(1.5, 400, 4), 0.5)) == 0  # of an older version: no passages
    # Of a vocabulary of 64: two bits per byte are chance.
    told, even = (worded(*bits) for bits in (HARD, (1.95,) * 4))
    assert left(made(told, 0.5, quality(*WORSE))) == 2 and left(made(even, 0.5, quality(*WORSE))) == 0
    assert not [one for one in figures(conclude(made(random, 0.5))) if one.title == "Quality for cost"]


def test_the_cost_is_that_of_the_closed_loop_at_which_it_is_least() -> None:
    whole = made(quality(*WORSE), 0.5)
    found = cost(whole, 0)
    assert found is not None
    assert (found.level, found.seconds) == (0, pytest.approx(2 / 12 * 1000))  # four requests of three tokens
    found = cost(again(whole, 0, 4.0), 0)
    assert found is not None and (found.level, found.seconds) == (1, pytest.approx(0.5 / 12 * 1000))
    whole.experiment = replace(whole.experiment, levels=(Poisson(4.0), Poisson(16.0)))
    assert cost(whole, 0) is None


def test_tokens_beyond_the_objective_do_not_count() -> None:
    whole = made(quality(*WORSE), 0.5)
    whole.experiment = replace(whole.experiment, objective=Objective(first_token=0.1015))  # two of each four
    found = cost(whole, 0)
    assert found is not None and found.seconds == pytest.approx(2 / 6 * 1000)
    whole.experiment = replace(whole.experiment, objective=Objective(first_token=0.01))
    assert cost(whole, 0) is None


def test_both_intervals_are_drawn_and_written() -> None:
    findings = conclude(made(quality(*WORSE), 0.5))
    [drawn] = [one for one in figures(findings) if one.title == "Quality for cost"]
    assert drawn.svg.count('class="whisker"') == 2 and drawn.svg.count("<circle") == 2
    assert "arch0, 2 at a time: 167 s for 1,000 tokens, 1.8750 bits per byte" in drawn.svg
    first, second = orjson.loads(orjson.dumps(document(findings)))["quality_for_cost"]
    assert first["bits"] is None and second["bits"]["verdict"] == "worse"
    assert (second["time"]["verdict"], second["level"]) == ("faster", 0)
    spent = [one.value for one in numbers(findings) if one.metric == "cost"]
    assert spent == pytest.approx([166.667, 85.0], rel=1e-3)
