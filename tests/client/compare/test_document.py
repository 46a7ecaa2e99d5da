"""What was written is read back: to look at again, to go on with, to compare with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.compare.judge.findings import conclude
from client.compare.judge.paired import METRICS
from client.compare.judge.whole import OF_A_RUN
from client.compare.judge.words import Verdict
from client.compare.measure.bench import Watcher, measure
from client.compare.measure.results import Results
from client.compare.plan.experiment import from_text
from client.compare.tell.document import ResultsError, document, read, resumable
from client.compare.tell.report import write
from tests.client.compare.factories import results
from tests.client.compare.test_bench import on
from tests.client.fake_server import FakeServer

SOURCE = """
[[architectures]]
name = "arch0"
target = "http://x"
[[architectures]]
name = "arch1"
target = "http://x"
[workload]
requests = 4
output_tokens = 3
[arrivals]
kind = "poisson"
rates = [2]
"""


def made(firsts: tuple[float, float] = (0.1, 0.2), repeats: int = 5) -> Results:
    """Results of an experiment that a file describes."""
    whole = results(firsts, repeats)
    whole.experiment = replace(from_text(SOURCE, Path("made.toml")), repeats=repeats)
    return whole


def kept(whole: Results, folder: Path) -> Path:
    write(conclude(whole), folder)
    return folder / "results.json"


def test_everything_is_read_back(tmp_path: Path) -> None:
    whole = made()
    path = kept(whole, tmp_path)
    again = read(path)
    assert [m.cell for m in again.measured] == [m.cell for m in whole.measured]
    assert again.cards == whole.cards
    assert again.experiment == whole.experiment
    assert orjson.loads(orjson.dumps(document(conclude(again))))["cells"] == orjson.loads(path.read_bytes())["cells"]
    verdicts = {one.metric: one.verdict for one in conclude(again).differences[1, 0]}
    assert [verdicts[metric] for metric in METRICS] == ["slower", Verdict.NOT_SHOWN, "slower"]
    assert [verdicts[metric] for metric in OF_A_RUN if metric in verdicts] == ["slower", Verdict.NOT_SHOWN, "slower"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "holds no results"),
        (b"[]", "holds no results"),
        (b'{"schema": "dyno.compare/1"}', "schema 'dyno.compare/1'; this version reads dyno.compare/2"),
        (b'{"schema": "dyno.compare/2"}', "holds no whole results"),
    ],
)
def test_what_is_no_result_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=said):
        read(path)


def test_only_the_same_experiment_is_gone_on_with(tmp_path: Path) -> None:
    whole = made()
    path = kept(whole, tmp_path)
    assert resumable(tmp_path / "none.json", whole.experiment) is None
    found = resumable(path, whole.experiment)
    assert found is not None
    assert [m.cell for m in found.measured] == [m.cell for m in whole.measured]
    with pytest.raises(ResultsError, match="is of another experiment"):
        resumable(path, replace(whole.experiment, seed=7))


async def test_a_stopped_comparison_goes_on_where_it_was(fake: FakeServer) -> None:
    experiment = on(fake, "a", "b", repeats=2)
    stop = asyncio.Event()

    class Impatient(Watcher):
        def measured(self, results: Results) -> None:
            stop.set()

    @contextmanager
    def stopping() -> Iterator[asyncio.Event]:
        yield stop

    first = await measure(experiment, stopping=stopping, watcher=Impatient())
    assert len(first.measured) == 1
    earlier = first.measured[0].run
    whole = await measure(experiment, before=first)
    assert not whole.interrupted
    assert len({m.cell for m in whole.measured}) == len(whole.measured) == 4
    assert whole.measured[0].run is earlier


def test_a_missing_old_result_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    path = kept(made(), tmp_path)
    told = CliRunner().invoke(app, ["compare", str(path), "--against", str(tmp_path / "none.json")])
    assert told.exit_code == 1
    assert "none.json" in told.stderr


def test_tables_for_other_programs(tmp_path: Path) -> None:
    path = str(kept(made(), tmp_path))
    markdown = CliRunner().invoke(app, ["compare", path, "--format", "md"]).stdout
    assert "| arch1 | first token |" in markdown
    assert "### Against arch0 at 2/s, Poisson: medians over pairs" in markdown
    lines = CliRunner().invoke(app, ["compare", path, "--format", "csv"]).stdout.splitlines()
    assert lines[0] == "level,architecture,metric,statistic,value,low,high,unit,against,verdict"
    assert '"2/s, Poisson",arch1,requests,answered,20,,,requests,,' in lines
