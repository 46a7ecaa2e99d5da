"""Experiments on fake servers with known delays."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Self

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from client import demo
from client.api import ClientError
from client.cli import app
from client.compare.judge.findings import conclude
from client.compare.measure import bench, sides
from client.compare.measure.bench import Watcher, measure
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture, Experiment
from client.launch import LaunchError, ServerProcess
from client.load.arrivals import Closed, Constant
from client.load.workload import Prompts, Workload, WorkloadError
from tests.client.fake_server import FakeServer


def on(fake: FakeServer, *names: str, **changes: object) -> Experiment:
    fake.behave(models=names, first_token=0.02, gap=0.004)
    experiment = Experiment(
        name="fakes",
        architectures=tuple(Architecture(name, name, fake.http) for name in names),
        workload=Workload(requests=6, output_tokens=3, prompts=Prompts.RANDOM, prompt_tokens=8),
        levels=(Closed(3),),
        requests=(6,),
        repeats=5,
        warmup=2,
    )
    changed = replace(experiment, **changes)  # type: ignore[arg-type]
    return replace(changed, requests=(changed.workload.requests,) * len(changed.levels))


async def test_a_slowed_architecture_is_caught(fake: FakeServer) -> None:
    experiment = on(fake, "plain", "slowed")
    fake.behave(slowdown={"slowed": 4.0})
    findings = conclude(await measure(experiment))
    first, per_token, total, *_ = findings.differences[1, 0]
    assert (first.verdict, total.verdict) == ("slower", "slower")
    assert first.ratio == pytest.approx(4.0, rel=0.4)
    assert first.difference == pytest.approx(0.06, abs=0.02)
    assert per_token.ratio > 1.5


async def test_identical_architectures_are_not_told_apart(fake: FakeServer) -> None:
    """Of each kind of numbers one run in twenty may tell them apart by chance: the test fails if three in a row do."""
    experiment = on(fake, "one", "twin")
    for seed in range(3):
        findings = conclude(await measure(replace(experiment, seed=seed)))
        if {one.verdict for one in findings.differences[1, 0]} == {"no difference shown"}:
            break
    else:
        raise AssertionError(f"told apart three times: {findings.differences}")
    assert all(one.smallest > 1.0 for one in findings.differences[1, 0][:3])


async def test_every_architecture_gets_the_same_requests_in_interleaved_rounds(fake: FakeServer) -> None:
    experiment = on(fake, "a", "b", levels=(Closed(1), Constant(200.0)), repeats=2)
    results = await measure(experiment)
    order = [(m.cell.repeat, m.cell.level, m.cell.architecture) for m in results.measured]
    assert order == [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
    hashes = [m.run.trace_hash for m in results.measured]
    assert hashes[::2] == hashes[1::2]
    assert len(set(hashes)) == 4
    prompts = {"a": [], "b": []}  # type: dict[str, list[tuple[int, ...]]]
    for _, body in fake.seen:
        prompts[body["model"]].append(tuple(body["prompt"]))
    assert sorted(prompts["a"]) == sorted(prompts["b"])
    assert len(set(prompts["a"])) == 2 + 4 * 6  # the warm-up and every cell: no prompt comes twice


async def test_there_is_a_rest_before_every_turn_and_a_stop_ends_it(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of the server before may spin for a while."""
    monkeypatch.setattr(bench, "REST", 0.2)
    began = time.perf_counter()
    results = await measure(on(fake, "a", "b", repeats=1))
    assert time.perf_counter() - began > 0.4 + sum(m.run.seconds for m in results.measured)

    @contextmanager
    def stopping() -> Iterator[asyncio.Event]:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, stop.set)
        yield stop

    monkeypatch.setattr(bench, "REST", 60.0)
    stopped = await asyncio.wait_for(measure(on(fake, "a", "b"), stopping=stopping), 10)
    assert stopped.interrupted and not stopped.measured


async def test_stopping_keeps_the_cells_so_far(fake: FakeServer) -> None:
    stop = asyncio.Event()

    class Impatient(Watcher):
        def measured(self, results: Results) -> None:
            if len(results.measured) == 3:
                stop.set()

    @contextmanager
    def stopping() -> Iterator[asyncio.Event]:
        yield stop

    results = await measure(on(fake, "a", "b"), stopping=stopping, watcher=Impatient())
    assert results.interrupted
    assert len(results.measured) == 3


async def test_an_architecture_that_fails_its_warm_up_is_told(fake: FakeServer) -> None:
    experiment = on(fake, "a", "b")
    fake.behave(fault_after=1)
    with pytest.raises(ClientError, match="a: a warm-up request failed: the server failed"):
        await measure(experiment)


async def test_an_unknown_model_and_a_workload_that_does_not_fit(fake: FakeServer) -> None:
    experiment = on(fake, "a", "b")
    fake.behave(models=("a",))
    with pytest.raises(WorkloadError, match="b: the server has no model 'b'; it has a"):
        await measure(experiment)
    experiment = on(fake, "a", "b")
    with pytest.raises(WorkloadError, match="a: model a holds 256 tokens; the workload needs 303"):
        await measure(replace(experiment, workload=replace(experiment.workload, prompt_tokens=300)))


OWN = """
repeats = 5
[[architectures]]
name = "plain"
model = "a"
[[architectures]]
name = "slowed"
model = "b"
flags = ["--first-token", "0.08"]  # over that of all servers
[workload]
requests = 4
output_tokens = 3
[arrivals]
concurrency = [2]
[server]
flags = ["--first-token", "0.02"]
"""


@pytest.mark.usefixtures("fake_processes")
def test_the_command_starts_servers_of_its_own_and_writes_the_report(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    done = CliRunner().invoke(app, ["compare", str(file), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "slowed against plain: slower: first token" in " ".join(done.stdout.split())
    told = orjson.loads((tmp_path / "out" / "results.json").read_bytes())
    targets = {cell["target"] for cell in told["cells"]}
    assert len(targets) == 2
    assert told["experiment"]["name"] == "own"
    assert "<h1>own</h1>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("fake_processes")
async def test_a_server_that_does_not_start_is_told_by_name(fake: FakeServer) -> None:
    broken = (Architecture("fine", "a", fake.http), Architecture("broken", "b", flags=("--broken",)))
    with pytest.raises(LaunchError, match="broken: the server did not start"):
        await measure(on(fake, "a", "b", architectures=broken))


@pytest.mark.usefixtures("fake_processes")
async def test_the_clients_cores_are_the_clients_alone(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of a server that it starts, and not all that the machine has."""
    everywhere, seen = os.sched_getaffinity(0), []
    if len(everywhere) < 2:
        pytest.skip("the only core is everybody's")

    class Seen(ServerProcess):
        async def __aenter__(self) -> Self:
            await super().__aenter__()
            seen.append(os.sched_getaffinity(self.pid or 0))
            return self

    class Where(Watcher):
        def planned(self, requests: int) -> None:
            seen.append(os.sched_getaffinity(0))

    monkeypatch.setattr(sides, "ServerProcess", Seen)
    one = min(everywhere)
    own = (Architecture("own", "a"), Architecture("running", "b", fake.http))
    experiment = on(fake, "a", "b", architectures=own, client_cores=(one,), repeats=1)
    results = await measure(experiment, watcher=Where())
    assert seen == [everywhere, {one}] and os.sched_getaffinity(0) == everywhere
    assert results.environment["cores"] == len(everywhere)
    assert results.environment["client cores"] == [one]


@pytest.mark.usefixtures("fake_processes")
async def test_the_demo_shows_everything_and_stops_the_server() -> None:
    console = Console(file=StringIO(), width=100)
    await demo.show(console)
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    for said in (
        "Ready after",
        "Latency",
        "Routing",
        "the same tokens over both",
        "experts",
        "Stopped with exit code 0",
    ):
        assert said in shown
    assert "NOT" not in shown and "a verdict needs" not in shown
