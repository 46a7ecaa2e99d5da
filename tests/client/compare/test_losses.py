"""Requests that failed are told first, and nobody is called faster for refusing most of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.compare.judge.findings import conclude
from client.compare.measure.bench import Watcher, measure
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture
from client.compare.plan.schedule import Cell
from client.compare.tell.cautions import cautions
from client.compare.tell.document import resumable
from client.compare.tell.verdicts import summary
from client.load.arrivals import Constant
from tests.client.compare.factories import record, results
from tests.client.compare.test_bench import on
from tests.client.compare.test_document import kept, made
from tests.client.fake_server import FakeServer


def refusing(whole: Results, rows: range) -> Results:
    """The second architecture refuses these rows of every round."""
    for n, m in enumerate(whole.measured):
        if m.cell.architecture == 1:
            told = tuple(record(r.row, 0.01, error="full") if r.row in rows else r for r in m.run.records)
            whole.measured[n] = replace(m, run=replace(m.run, records=told))
    return whole


def test_a_server_that_refuses_is_not_faster() -> None:
    findings = conclude(refusing(results((0.2, 0.1)), range(1, 4)))
    assert {one.verdict for one in findings.differences[1, 0]} == {"no verdict: requests failed"}
    said = "arch1 at 2/s, Poisson: 15 of 20 requests failed (15 × 'full')"
    assert summary(findings)[0] == said
    assert cautions(findings)[0] == said
    assert "no verdict: too many requests failed" in summary(findings)[1]


def test_one_lost_pair_in_a_hundred_is_borne() -> None:
    whole = results((0.2, 0.1))
    rounds = {m.cell: m for m in whole.measured}
    for cell, m in rounds.items():
        rows = tuple(record(row, m.run.records[0].arrivals[0] * (1 + row / 1000)) for row in range(20))
        rounds[cell] = replace(m, run=replace(m.run, records=rows))
    first = rounds[Cell(0, 0, 1)]
    lost = (replace(first.run.records[0], error="full"), *first.run.records[1:])
    rounds[Cell(0, 0, 1)] = replace(first, run=replace(first.run, records=lost))
    whole.measured = list(rounds.values())
    findings = conclude(whole)
    assert findings.differences[1, 0][0].verdict == "faster"
    assert "1 of 100 requests failed" in cautions(findings)[0]


def test_an_architecture_that_mostly_failed_fails_the_command(tmp_path: Path) -> None:
    path = kept(refusing(made((0.2, 0.1)), range(1, 4)), tmp_path)
    done = CliRunner().invoke(app, ["compare", str(path)])
    assert done.exit_code == 1
    assert "this comparison failed: arch1" in done.stderr
    fine = kept(refusing(made((0.2, 0.1)), range(1)), tmp_path)
    assert CliRunner().invoke(app, ["compare", str(fine)]).exit_code == 0


async def test_refusals_of_a_server_are_counted(fake: FakeServer) -> None:
    experiment = on(fake, "calm", "full", repeats=2, warmup=0)
    fake.behave(busy=("full",))
    findings = conclude(await measure(experiment))
    assert "full at 3 at a time: 10 of 12 requests failed (10 × 'the queue is full')" in cautions(findings)


@pytest.mark.parametrize(
    ("how", "why"), [("dead", "b: nothing answers at"), ("draining", "b: the server is shutting down")]
)
async def test_a_server_that_is_gone_ends_the_comparison(fake: FakeServer, tmp_path: Path, how: str, why: str) -> None:
    """What was measured is kept, and the cell that was cut is measured again with --resume."""
    experiment = on(fake, "a", "b")

    class Killing(Watcher):
        def measuring(self, architecture: Architecture, cell: Cell) -> None:
            if cell.repeat == 1:
                fake.behave(**{how: True})

    found = await measure(experiment, watcher=Killing())
    assert len(found.measured) == 3
    assert found.gone.startswith(why)
    assert not found.interrupted
    assert cautions(conclude(found))[0].startswith(f"ended early: {why}")
    again = resumable(kept(found, tmp_path), experiment)
    assert again is not None
    assert (len(again.measured), again.gone) == (2, "")


async def test_a_long_load_does_not_go_on_against_nobody(fake: FakeServer) -> None:
    experiment = on(fake, "a", "b", levels=(Constant(200.0),))
    experiment = replace(experiment, workload=replace(experiment.workload, requests=400), requests=(400,))

    class Killing(Watcher):
        def measuring(self, architecture: Architecture, cell: Cell) -> None:
            fake.behave(dead=True)

    found = await measure(experiment, watcher=Killing())
    (cut,) = found.measured
    assert 20 <= len(cut.run.records) < 400
    assert found.gone.startswith("a: nothing answers at")
    assert not found.interrupted
