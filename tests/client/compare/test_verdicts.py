"""In short: nothing that is true of one load is said of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.compare.judge.findings import conclude
from client.compare.measure.results import Measured, Results
from client.compare.plan.schedule import Cell
from client.compare.tell.verdicts import sentences, summary
from client.facts import facts_from_json
from client.load.arrivals import Arrivals, Closed, Poisson
from tests.client.answers import facts
from tests.client.compare.factories import record, results, run


def under(loads: Sequence[Arrivals], ratios: Sequence[float]) -> Results:
    """The other architecture takes `ratios` times as long, a load each; 1 is the very same time."""
    made = results()
    made.experiment = replace(made.experiment, levels=tuple(loads))
    made.measured = []
    for level, ratio in enumerate(ratios):
        for repeat in range(5):
            for i, factor in enumerate((1.0, ratio)):
                rows = [record(row, 0.1 * factor * (1 + row / 100), gap=0.01 * factor) for row in range(4)]
                told = replace(run(rows), arrivals=loads[level], seconds=2.0 * factor)
                made.measured.append(Measured(Cell(repeat, level, i), told))
    return made


AT_A_TIME = (Closed(1), Closed(8), Closed(32))


def test_a_verdict_names_its_load() -> None:
    said = summary(conclude(under(AT_A_TIME, (1.0, 1.0, 1.3))))[0]
    assert "slower at 32 at a time: first token 1.30 times, " in said


def test_several_loads_are_named_and_all_of_them_are_every_one() -> None:
    some, every, only = (
        summary(conclude(under(AT_A_TIME[: len(factors)], factors)))[0]
        for factors in ((1.0, 1.2, 1.3), (1.1, 1.2, 1.3), (1.1,))
    )
    assert (
        "slower at 8 at a time and 32 at a time: first token 1.20 to 1.30 times, per token 1.20 to 1.30 times" in some
    )
    assert "slower at every load: first token 1.10 to 1.30 times, per token 1.10 to 1.30 times" in every
    assert "slower: first token 1.10 times, per token 1.10 times" in only


def test_times_that_differ_at_other_loads_stand_apart() -> None:
    made = under(AT_A_TIME, (1.3, 1.3, 1.3))
    for n, m in enumerate(made.measured):
        if m.cell.level == 1:  # answers of one token have no time between tokens
            short = [replace(r, arrivals=r.arrivals[:1], facts=facts_from_json(facts(8, 1))) for r in m.run.records]
            made.measured[n] = replace(m, run=replace(m.run, records=tuple(short)))
    said = summary(conclude(made))[0]
    assert "slower at every load: first token 1.30 times" in said
    assert "; at 1 at a time and 32 at a time: per token 1.30 times" in said


def test_answers_of_one_token_were_answered_all_the_same() -> None:
    made = under(AT_A_TIME[:1], (1.1,))
    for n, m in enumerate(made.measured):
        short = [replace(r, arrivals=r.arrivals[:1], facts=facts_from_json(facts(8, 1))) for r in m.run.records]
        made.measured[n] = replace(m, run=replace(m.run, records=tuple(short)))
    said = [one for one in sentences(conclude(made)) if "nothing can be said" in one]
    assert said == [
        "At 1 at a time, nothing can be said of time per output token: no request has one from both arch1 and arch0.",
        "At 1 at a time, nothing can be said of the 99th percentile of the inter-token time: "
        "no round has one from both arch1 and arch0.",
    ]


def test_where_the_order_turns_is_said() -> None:
    _, turn, *_ = summary(conclude(under(AT_A_TIME, (0.7, 0.8, 1.5))))
    assert turn.startswith("arch1 is faster than arch0 in first token, per token, end to end, ")
    assert turn.endswith(" at 8 at a time and below, slower at 32 at a time: between them the order turns.")
    _, turn, *_ = summary(conclude(under((Poisson(8.0), Poisson(1.0), Poisson(4.0)), (0.8, 1.5, 0.7))))
    assert turn.startswith("arch1 is slower than arch0 in ")
    assert turn.endswith(" at 1/s, faster from 4/s on: between them the order turns.")


def test_failures_and_noise_are_of_their_load() -> None:
    made = under(AT_A_TIME, (1.0, 1.2, 1.3))
    for n, m in enumerate(made.measured):
        if m.cell == Cell(m.cell.repeat, 2, 1):
            broken = tuple(replace(r, error="full") for r in m.run.records)
            made.measured[n] = replace(m, run=replace(m.run, records=broken))
        if m.cell == Cell(4, 0, 0):
            slow = tuple(replace(r, end=5.0) for r in m.run.records)
            made.measured[n] = replace(m, run=replace(m.run, records=slow))
    said = next(line for line in summary(conclude(made)) if line.startswith("arch1 against arch0"))
    assert "; no verdict at 32 at a time: too many requests failed." in said
    assert said.endswith(" The machine was too noisy at 1 at a time to rely on this.")


def test_nothing_turns_where_no_verdict_changes_its_sign() -> None:
    assert not any("turns" in line for line in summary(conclude(under(AT_A_TIME, (1.0, 1.2, 1.5)))))
