"""Quality for cost: who dominates whom, and what a bit costs, as far as both are shown."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from client.compare.brief import besides
from client.compare.document import document
from client.compare.figures import figures
from client.compare.findings import conclude
from client.compare.quality import Quality
from client.compare.results import Results
from client.compare.schedule import Cell
from client.compare.tidy import numbers
from client.compare.worth import cost, in_words, worths
from client.load.arrivals import Closed, Poisson
from client.load.statistics import Objective
from tests.client.compare.factories import results
from tests.client.compare.test_bits import ELSEWHERE, HARD, WORSE, quality

NAMES = ("arch0", "arch1")


def made(other: Quality | None, time: float, base: Quality | None = None) -> Results:
    """The other takes so many times as long, a little more in one round than in another."""
    whole = results((0.1, 0.1))
    whole.experiment = replace(whole.experiment, levels=(Closed(4),))
    whole.qualities = (base or quality(*HARD), other)
    for n, m in enumerate(whole.measured):
        longer = time * (1 + m.cell.repeat / 100) if m.cell.architecture else 1.0
        whole.measured[n] = replace(m, run=replace(m.run, seconds=2 * longer))
    return whole


@pytest.mark.parametrize(
    ("base", "other", "time", "said"),
    [
        (HARD, WORSE, 0.5, "arch1 against arch0: 1.07 % more bits per byte for 1.96 times less time a token."),
        (
            HARD,
            WORSE,
            2.0,
            "arch0 dominates arch1: arch1 has 1.07 % more bits per byte and takes 2.04 times as much time a token.",
        ),
        (
            WORSE,
            HARD,
            0.5,
            "arch1 dominates arch0: arch1 has 1.06 % fewer bits per byte and takes 1.96 times less time a token.",
        ),
        (WORSE, HARD, 2.0, "arch1 against arch0: 1.06 % fewer bits per byte for 2.04 times as much time a token."),
        (
            HARD,
            ELSEWHERE,
            0.5,
            "arch1 against arch0: 1.96 times less time a token, no difference in bits per byte shown.",
        ),
        (HARD, WORSE, 0.98, "arch1 against arch0: 1.07 % more bits per byte, no difference in time shown."),
        (HARD, ELSEWHERE, 0.98, "arch1 against arch0: no difference shown, in bits per byte or in time."),
    ],
)
def test_what_is_said_of_both_needs_both_to_be_shown(
    base: tuple[float, ...], other: tuple[float, ...], time: float, said: str
) -> None:
    whole = made(quality(*other), time, quality(*base))
    assert in_words(worths(whole), NAMES) == (said,)
    assert said in besides(conclude(whole))


def test_weights_that_know_nothing_and_what_was_not_judged_are_left_out() -> None:
    random = quality(*(bits + 10 for bits in HARD))
    assert worths(made(random, 0.5)) == ()
    assert worths(made(quality(*WORSE), 0.5, random)) == ()
    assert worths(made(None, 0.5)) == ()
    assert worths(made(Quality(1.5, 400, 4), 0.5)) == ()  # of an older version: no passages
    assert not [one for one in figures(conclude(made(random, 0.5))) if one.title == "Quality for cost"]


def test_the_cost_is_that_of_the_closed_loop_at_which_it_is_least() -> None:
    whole = made(quality(*WORSE), 0.5)
    found = cost(whole, 0)
    assert found is not None
    assert (found.level, found.seconds) == (0, pytest.approx(2 / 12 * 1000))  # four requests of three tokens
    faster = [replace(m, cell=Cell(m.cell.repeat, 1, m.cell.architecture)) for m in whole.measured]
    whole.measured += [replace(m, run=replace(m.run, seconds=m.run.seconds / 4)) for m in faster]
    whole.experiment = replace(whole.experiment, levels=(Closed(4), Closed(16)))
    found = cost(whole, 0)
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
    assert "arch0, 4 at a time: 167 s for 1,000 tokens, 1.8750 bits per byte" in drawn.svg
    first, second = orjson.loads(orjson.dumps(document(findings)))["quality_for_cost"]
    assert first["bits"] is None and second["bits"]["verdict"] == "worse"
    assert (second["time"]["verdict"], second["level"]) == ("faster", 0)
    spent = [one.value for one in numbers(findings) if one.metric == "cost"]
    assert spent == pytest.approx([166.667, 85.0], rel=1e-3)
