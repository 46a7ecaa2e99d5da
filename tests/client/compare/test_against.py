"""The gate: what is worse fails it, what cannot be told has an exit code of its own."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from client.compare.judge.findings import conclude
from client.compare.measure.quality import Quality
from client.compare.measure.results import Results
from client.compare.measure.searching import Tried
from client.compare.tell.against import judge
from client.compare.tell.report import write
from tests.client.compare.factories import closed, record
from tests.client.compare.test_document import kept, made


def gated(old: Results, new: Results, folder: Path, *flags: str) -> Result:
    paths = [str(kept(one, folder / name)) for one, name in ((old, "old"), (new, "new"))]
    return CliRunner().invoke(app, ["compare", paths[1], "--against", paths[0], *flags])


def changed(whole: Results, *, error: str = "", seconds: float = 1.0, late: float = 1.0, rows: int = 4) -> Results:
    """The second architecture fails its first rows, takes longer as a whole, or is late with the last row of each."""
    for n, m in enumerate(whole.measured):
        if m.cell.architecture != 1:
            continue
        told = [record(r.row, 0.1, error=error) if error and r.row < rows else r for r in m.run.records]
        told[-1] = record(3, m.run.records[-1].arrivals[0] * late, error=told[-1].error)
        run = replace(m.run, records=tuple(told), seconds=m.run.seconds * seconds)
        whole.measured[n] = replace(m, run=run)
    return whole


def test_a_slower_result_fails_the_gate(tmp_path: Path) -> None:
    old, new = made((0.1, 0.2)), made((0.1, 0.3))
    same = gated(old, old, tmp_path)
    assert same.exit_code == 0, same.output
    worse = gated(old, new, tmp_path)
    assert worse.exit_code == 3
    assert "REGRESSION" in worse.stdout
    assert gated(old, new, tmp_path, "--tolerance", "0.6").exit_code == 0
    better = gated(new, old, tmp_path)
    assert better.exit_code == 0
    assert "faster" in better.stdout


@pytest.mark.parametrize("rows", [1, 4])
def test_more_errors_fail_the_gate(tmp_path: Path, rows: int) -> None:
    """Those that are left may be as quick as ever; or there are none left."""
    done = gated(made(), changed(made(), error="full", rows=rows), tmp_path)
    assert done.exit_code == 3
    assert "failed requests" in done.stdout
    assert not judge(made(), made()).failed


def test_a_missing_architecture_fails_the_gate(tmp_path: Path) -> None:
    new = made()
    new.measured = [m for m in new.measured if m.cell.architecture == 0]
    done = gated(made(), new, tmp_path)
    assert done.exit_code == 3
    assert "rounds measured" in done.stdout


def searched(*firsts: float, control: int | None = None) -> Results:
    whole = made(firsts)
    whole.experiment = replace(whole.experiment, control=control)
    whole.tried = [Tried(i, 1 / first, 1.0, True) for i, first in enumerate(firsts)]
    return whole


def test_a_control_is_no_architecture_that_could_be_missing_or_worse() -> None:
    old = searched(0.1, 0.2, 0.1, control=2)
    for new in (searched(0.1, 0.2), searched(0.1, 0.2, 0.3, control=2)):
        gate = judge(old, new)
        assert not gate.failed
        assert {one.architecture for one in gate.changes} == {"arch0", "arch1"}
        assert not [one for one in gate.checks if one.place.startswith("arch2")]


def test_what_could_not_have_been_seen_is_no_pass(tmp_path: Path) -> None:
    """Rounds a tenth apart: a twelfth more does not show, three times as much does, and less is fine."""
    rng = np.random.default_rng(3)
    shift = np.exp(rng.normal(0, 0.1, 5)).tolist()

    def result(factor: float) -> Results:
        whole = made()
        for n, m in enumerate(whole.measured):
            rows = [record(r.row, r.arrivals[0] * shift[m.cell.repeat] * factor) for r in m.run.records]
            whole.measured[n] = replace(m, run=replace(m.run, records=tuple(rows)))
        return whole

    done = gated(made(), result(1.08), tmp_path)
    assert done.exit_code == 4, done.output
    assert "too few or too unequal rounds to show 5% in first token" in done.stderr
    assert gated(made(), result(3.0), tmp_path).exit_code == 3
    assert gated(made(), result(0.6), tmp_path).exit_code == 0


def test_few_rounds_cannot_be_judged(tmp_path: Path) -> None:
    done = gated(made(repeats=4), made(repeats=4), tmp_path)
    assert done.exit_code == 4
    assert "arch1, 2/s, Poisson: 4 rounds in common, a verdict needs 5" in done.stderr


def test_nothing_in_common_cannot_be_judged(tmp_path: Path) -> None:
    other = made()
    other.measured = [replace(m, run=replace(m.run, trace_hash="another")) for m in other.measured]
    done = gated(made(), other, tmp_path)
    assert done.exit_code == 4
    assert "no round of the same trace" in done.stderr
    empty = made()
    empty.measured = []
    assert gated(made(), empty, tmp_path).exit_code == 4


def test_lower_throughput_and_a_longer_tail_fail_the_gate() -> None:
    def regressed(new: Results, old: Results | None = None) -> set[str]:
        return {one.difference.metric for one in judge(old or made(), new).changes if one.regressed(0.05)}

    assert regressed(closed(changed(made(), seconds=1.2)), closed(made())) == {"throughput"}
    assert regressed(changed(made(), seconds=1.2)) == set(), "in an open loop it is what was offered"
    assert regressed(changed(made(), late=3.0)) == {"first_token_p95", "total_p95"}
    assert regressed(changed(made(), late=1.0)) == set()


def test_a_lower_highest_rate_and_worse_quality_fail_the_gate() -> None:
    def found(rate: float, bits: float) -> set[str]:
        whole = made()
        whole.tried = [Tried(i, rate, 1.0, True) for i in range(2)]
        whole.qualities = (Quality(1.0, 100, 2), Quality(bits, 100, 2))
        return {one.what.partition(" (")[0] for one in judge(old, whole).checks if one.failed}

    old = made()
    old.tried = [Tried(i, 10.0, 1.0, True) for i in range(2)]
    old.qualities = (Quality(1.0, 100, 2),) * 2
    assert found(10.0, 1.0) == set()
    assert found(8.0, 1.0) == {"highest rate, 1/s"}
    assert found(10.0, 1.02) == {"bits per byte"}


def test_the_gate_is_told_in_the_format_that_was_asked_for(tmp_path: Path) -> None:
    data = gated(made(), made(), tmp_path, "--format", "csv")
    assert {len(line) for line in csv.reader(data.stdout.splitlines())} == {10}, "data and nothing else"
    assert "New against old" in data.stderr
    markdown = gated(made(), made(), tmp_path, "--format", "md").stdout
    assert "### New against old" in markdown


def test_the_gate_is_written_with_the_report(tmp_path: Path) -> None:
    write(conclude(made()), tmp_path, judge(made(), made()).grids())
    assert "New against old" in (tmp_path / "report.html").read_text()
    assert len(orjson.loads((tmp_path / "results.json").read_bytes())["against"]) == 2
