"""A noisy machine is told in the summary and once among the notes; a full disk does not end a comparison."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from client.api import ClientError
from client.compare.judge.findings import conclude
from client.compare.measure.bench import measure
from client.compare.measure.results import Results
from client.compare.measure.supply import Supply
from client.compare.session import Screen
from client.compare.tell import report
from client.compare.tell.cautions import cautions
from client.compare.tell.verdicts import summary
from client.connect import connect
from client.load.trace import Trace, TraceRow
from client.load.workload import Subject, WorkloadError
from tests.client.compare.factories import record, results
from tests.client.compare.test_bench import on
from tests.client.fake_server import FakeServer


def slowing() -> Results:
    """Every round takes a tenth longer than the one before."""
    made = results((0.1, 0.1))
    for n, m in enumerate(made.measured):
        late = tuple(replace(r, end=r.end * (1 + m.cell.repeat / 5)) for r in m.run.records)
        made.measured[n] = replace(m, run=replace(m.run, records=late))
    return made


def test_a_noisy_machine_is_told() -> None:
    findings = conclude(slowing())
    said = [caution for caution in cautions(findings) if caution.startswith("too noisy")]
    assert len(said) == 1
    assert "arch0 1.8 times at 2/s, Poisson; arch1 1.8 times" in said[0]
    assert summary(findings)[0].endswith("The machine was too noisy to rely on this.")
    assert "noisy" not in summary(conclude(results((0.1, 0.1))))[0]


def test_a_full_disk_is_said_once_and_the_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write", full)
    made = results()
    console = Console(file=StringIO(), width=200)
    screen = Screen(made.experiment, Progress(console=console), tmp_path)
    screen.measured(made)
    screen.measured(made)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("No space left on device") == 1


def test_who_leaves_as_the_trace_says_has_not_failed() -> None:
    console = Console(file=StringIO(), width=200)
    made = results().experiment
    screen = Screen(made, Progress(console=console))
    screen.answered(replace(record(0, 0.1), cancelled=True))
    screen.searching(made.architectures[0], 1.0, 2)
    screen.answered(record(1, 0.1, error="it broke"))
    screen.searching(made.architectures[0], 1.0, 2)
    assert isinstance(console.file, StringIO)
    first, second = console.file.getvalue().splitlines()
    assert "1 requests answered, 0 s" in first
    assert "2 requests answered, 1 failed, 0 s" in second


@pytest.mark.parametrize("terminal", [False, True])
async def test_where_no_bar_is_drawn_every_round_and_rate_is_a_line(fake: FakeServer, terminal: bool) -> None:
    experiment = on(fake, "a", "b", repeats=2)
    console = Console(file=StringIO(), width=200, force_terminal=terminal)
    screen = Screen(experiment, Progress(console=console))  # not drawn by itself
    await measure(experiment, watcher=screen)
    screen.searching(experiment.architectures[1], 2.5, 10)
    assert isinstance(console.file, StringIO)
    lines = [line.partition(";") for line in console.file.getvalue().splitlines()]
    told = ["round 1 of 2", "round 2 of 2, about 0 s left", "searching: b at 2.5 requests/s"]
    assert [said for said, _, _ in lines] == ([] if terminal else told)
    counts = [0, 2 * experiment.workload.requests, 4 * experiment.workload.requests]
    assert all(f" {n} requests answered, " in rest for n, (_, _, rest) in zip(counts, lines, strict=False))


async def test_an_endpoint_that_nobody_answers_at_is_told_by_name(fake: FakeServer) -> None:
    experiment = on(fake, "a", "b")
    gone = replace(experiment.architectures[1], target="http://127.0.0.1:1")
    with pytest.raises(ClientError, match="b: nothing answers at"):
        await measure(replace(experiment, architectures=(experiment.architectures[0], gone)))


async def test_a_trace_gives_each_round_its_own_rows(fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    Trace(tuple(TraceRow(i / 100, (1, 2, i), 2, seed=i) for i in range(14))).write(path)
    experiment = on(fake, "a", "b", repeats=2, trace=path)
    done = await measure(experiment)
    assert not any(r.error for m in done.measured for r in m.run.records)
    asked = [tuple(body["prompt"]) for _, body in fake.seen if body["model"] == "a"]
    assert len(set(asked)) == len(asked) == 14
    with pytest.raises(WorkloadError, match="has 14 requests; the rounds need 20"):
        await measure(replace(experiment, repeats=3))


async def test_a_trace_that_a_model_cannot_hold_is_told(fake: FakeServer, tmp_path: Path) -> None:
    made = results()
    client = connect(fake.http)
    path = tmp_path / "t.jsonl"

    async def check(row: TraceRow) -> None:
        Trace((row,) * 40).write(path)
        subjects = [Subject(client, card, name="here") for card in made.cards]
        await Supply(replace(made.experiment, trace=path), subjects).check()

    async with client:
        await check(TraceRow(0.0, (1, 2), 5))
        with pytest.raises(WorkloadError, match="here: model arch0 holds 256 tokens; row 0 of the trace needs 302"):
            await check(TraceRow(0.0, (1, 2), 300))
        with pytest.raises(WorkloadError, match="knows 64 tokens; row 0 of the trace has 64"):
            await check(TraceRow(0.0, (1, 64), 5))
        await check(TraceRow(0.0, "wide words " * 100, 5))  # 200 tokens, one a word
        with pytest.raises(WorkloadError, match="holds 256 tokens; row 0 of the trace needs 305"):
            await check(TraceRow(0.0, "wide words " * 150, 5))
