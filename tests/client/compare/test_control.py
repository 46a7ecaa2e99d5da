"""A control is the baseline a second time: it says what the machine and the luck of a process come to."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from client.compare.judge.findings import conclude
from client.compare.measure import scoring
from client.compare.measure.bench import measure
from client.compare.measure.quality import Quality
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture, parse
from client.compare.plan.section import ExperimentError, Section
from client.compare.tell.brief import besides, notes
from client.compare.tell.cautions import cautions
from client.compare.tell.control import against_itself
from client.compare.tell.document import document
from client.compare.tell.page import page
from client.compare.tell.verdicts import summary
from tests.client.compare.factories import closed, results
from tests.client.compare.test_bench import on
from tests.client.compare.test_experiment import LEAST
from tests.client.fake_server import FakeServer


def test_the_baseline_comes_once_more_as_the_last() -> None:
    told = parse(Section(tomllib.loads("control = true" + LEAST)))
    assert told.control == 2
    assert told.architectures[2] == replace(told.baseline, name="a again")
    without = parse(Section(tomllib.loads("control = false" + LEAST)))
    assert without.control is None and len(without.architectures) == 2
    assert told.fingerprint != without.fingerprint


def test_one_architecture_and_its_control_are_a_comparison() -> None:
    one = LEAST.replace('[[architectures]]\nname = "b at home"\nmodel = "b"\ntarget = "grpc://127.0.0.1:1"\n', "")
    told = parse(Section(tomllib.loads("control = true" + one)))
    assert [architecture.name for architecture in told.architectures] == ["a", "a again"]
    with pytest.raises(ExperimentError, match="at least two"):
        parse(Section(tomllib.loads(one)))


def controlled(firsts: tuple[float, ...]) -> Results:
    """The last architecture is the control."""
    made = results(firsts)
    made.experiment = replace(made.experiment, control=len(firsts) - 1)
    return made


def test_what_the_baseline_came_to_against_itself_comes_first() -> None:
    findings = conclude(controlled((0.1, 0.2, 0.1)))
    first, second, *_ = summary(findings)
    assert first == (
        "arch0 against itself at 2/s, Poisson: first token 1.00 (1.00 to 1.00), per token 1.00 (1.00 to 1.00), "
        "end to end 1.00 (1.00 to 1.00)."
    )
    assert second.startswith("arch1 against arch0: slower: first token")
    assert not any(line.startswith("arch2 against") for line in summary(findings))
    assert not any("trusted" in caution for caution in cautions(findings))
    assert "2 architectures, arch0 a second time as a control, " in page(findings)
    assert document(findings)["experiment"]["control"] == 2


def test_measurements_that_tell_the_baseline_from_itself_are_not_to_be_trusted() -> None:
    findings = conclude(controlled((0.1, 0.2, 0.13)))
    said = summary(findings)[0]
    assert said.startswith(
        "not to be trusted: arch0 was told apart from itself, by a factor of up to 1.30 (first token p95, "
    )
    assert said in cautions(findings) and said not in notes(findings)
    assert against_itself(conclude(results((0.1, 0.2, 0.13)))) == ()


def test_with_few_rounds_it_only_seems_so() -> None:
    few = results((0.1, 0.2, 0.13), repeats=2)
    few.experiment = replace(few.experiment, control=2)
    assert summary(conclude(few))[0].startswith("not to be trusted: arch0 seems to differ from itself, by a factor of ")


def test_what_is_said_of_each_is_not_said_of_the_control() -> None:
    made = closed(controlled((0.1,) * 5 + (0.1,)))
    for n, m in enumerate(made.measured):
        made.measured[n] = replace(m, run=replace(m.run, seconds=6.0 / (m.cell.architecture + 1)))
    made.qualities = (*(Quality(1.5, 100, 2),) * 5, None)
    said = besides(conclude(made))
    assert said[0] == "Generated tokens a second at best: from 2.00 (arch0) to 10.0 (arch4)."
    assert "Bits per byte on held text, less is better: 1.5000 each." in said


def test_a_control_that_leans_does_not_explain_a_word_that_nobody_used() -> None:
    few = results((0.1, 0.1, 0.2), repeats=2)
    few.experiment = replace(few.experiment, control=2)
    assert not any("Seems" in line for line in summary(conclude(few)))


def test_the_control_is_outside_of_the_correction() -> None:
    def smallest(made: Results) -> list[float]:
        return [one.smallest for one in conclude(made).differences[1, 0]]

    assert smallest(controlled((0.1, 0.2, 0.1))) == smallest(results((0.1, 0.2)))
    assert smallest(results((0.1, 0.2, 0.1))) != smallest(results((0.1, 0.2)))


async def test_a_second_server_is_measured_and_not_scored_again(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    async def quality(target: str, model: str, places: object, bounds: object) -> Quality:
        scored.append(model)
        return Quality(1.5, 100, 2)

    monkeypatch.setattr(scoring, "quality", quality)
    architectures = (Architecture("a", "a", fake.http), Architecture("b", "b", fake.http))
    again = (*architectures, replace(architectures[0], name="a again"))
    whole = await measure(on(fake, "a", "b", architectures=again, control=2, quality=(), repeats=2))
    assert len(whole.of(2, 0)) == 2
    assert scored == ["a", "b"]
    findings = conclude(whole)
    assert summary(findings)[-1] == "No request failed."
    assert [
        line for line in against_itself(findings) if line.startswith("a against itself at 3 at a time: first token")
    ]
