"""Results are never lost to a full disk or a second run, are never mixed, and can be printed anywhere."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.cli import app
from client.compare.command import _write
from client.compare.judge.findings import conclude
from client.compare.measure import environment
from client.compare.plan.experiment import Experiment, read
from client.compare.tell import document
from client.compare.tell.cautions import cautions
from client.compare.tell.document import ResultsError, resumable
from client.compare.tell.page import page
from client.load.trace import Trace, TraceRow
from tests.client.compare.test_bench import OWN
from tests.client.compare.test_document import kept, made


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: the system's own error at write, as a full disk's is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("fake_processes")
def test_a_full_disk_does_not_take_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN.replace("repeats = 5", "repeats = 1"))
    with no_room(1000):
        done = CliRunner().invoke(app, ["compare", str(file), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "slowed against plain" in done.stdout
    assert "the report is not on disk" in done.stderr
    assert "holds nothing of it" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_what_an_earlier_round_left_is_said(tmp_path: Path) -> None:
    kept(made(repeats=2), tmp_path)
    with no_room(1000), pytest.raises(OSError, match=r"the report is not on disk: .*holds 4 cells of it"):
        _write(conclude(made(repeats=5)), None, tmp_path, Console())


@pytest.mark.usefixtures("fake_processes")
def test_a_used_folder_is_not_written_over(tmp_path: Path) -> None:
    file, out = tmp_path / "own.toml", tmp_path / "out"
    file.write_text(OWN.replace("repeats = 5", "repeats = 1"))
    old = kept(made(), out).read_bytes()
    refused = CliRunner().invoke(app, ["compare", str(file), "--out", str(out)])
    assert refused.exit_code == 2
    assert "--resume goes on with them, --force writes over them" in refused.stderr
    assert (out / "results.json").read_bytes() == old
    forced = CliRunner().invoke(app, ["compare", str(file), "--out", str(out), "--force"])
    assert forced.exit_code == 0, forced.output
    assert (out / "results.json").read_bytes() != old


TOML = """
[[architectures]]
model = "tiny.toml"
[[architectures]]
name = "other"
target = "http://x"
[workload]
requests = 4
output_tokens = { file = "lengths.txt" }
[arrivals]
concurrency = [2]
"""


def written(folder: Path, *, traced: bool = False) -> Experiment:
    (folder / "tiny.toml").write_text("width = 8")
    (folder / "lengths.txt").write_text("3\n")
    Trace((TraceRow(0.0, (1, 2), 3),)).write(folder / "t.jsonl")
    workload = 'trace = "t.jsonl"' if traced else 'output_tokens = { file = "lengths.txt" }'
    (folder / "e.toml").write_text(TOML.replace('output_tokens = { file = "lengths.txt" }', workload))
    return read(folder / "e.toml")


@pytest.mark.parametrize("name", ["tiny.toml", "lengths.txt", "t.jsonl"])
def test_a_file_that_changed_is_not_gone_on_with(tmp_path: Path, name: str) -> None:
    experiment = written(tmp_path, traced=name == "t.jsonl")
    whole = made()
    whole.experiment = experiment
    path = kept(whole, tmp_path / "out")
    assert resumable(path, read(tmp_path / "e.toml")) is not None
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace("3", "4") if "3" in text else text.replace("8", "9"))
    with pytest.raises(ResultsError, match="a file that it names has changed"):
        resumable(path, read(tmp_path / "e.toml"))


@pytest.mark.parametrize("traced", [False, True])
def test_results_can_be_printed_anywhere(tmp_path: Path, traced: bool) -> None:
    here = tmp_path / "here"
    here.mkdir()
    whole = made()
    whole.experiment = written(here, traced=traced)
    path = kept(whole, tmp_path)
    for file in here.iterdir():
        file.unlink()
    again = document.read(path)
    assert again.experiment == whole.experiment
    assert again.experiment.fingerprint == whole.experiment.fingerprint
    assert CliRunner().invoke(app, ["compare", str(path)]).exit_code == 0


def test_a_report_says_that_it_was_resumed_and_what_command_it_came_from(tmp_path: Path) -> None:
    whole = made()
    whole.command = "dyno compare 'my file.toml' --out there"
    path = kept(whole, tmp_path)
    found = resumable(path, whole.experiment)
    assert found is not None
    assert "resumed: 10 of 10 cells were measured in an earlier run" in cautions(conclude(found))
    assert "dyno compare &#x27;my file.toml&#x27; --out there" in page(conclude(whole))
    assert orjson.loads(path.read_bytes())["command"] == whole.command


def test_a_trace_that_is_missing_is_a_mistake_in_the_experiment(tmp_path: Path) -> None:
    written(tmp_path, traced=True)
    (tmp_path / "t.jsonl").unlink()
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "e.toml")])
    assert done.exit_code == 2
    assert "workload.trace: " in done.stderr
    assert "t.jsonl" in done.stderr


def test_the_environment_says_what_a_reader_needs() -> None:
    experiment = replace(made().experiment, flags=("--threads", "2"), cores=(0, 1))
    told = environment.environment(experiment)
    assert told["server flags"] == "--threads 2"
    assert told["server cores"] == [0, 1]
    assert told["memory"].endswith("GiB")
    assert "client cores" not in told
