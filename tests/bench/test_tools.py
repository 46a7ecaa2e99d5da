"""The measuring tools themselves: what they tell of processes, how they compare, and what they refuse to believe."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench import __main__ as suite
from tests.bench import curves, facing, peers, processes
from tests.bench.baseline import Baseline
from tests.bench.closed import Case
from tests.bench.contender import Contender, External, NotMeasured, Running, Score, free_ports, running
from tests.bench.figure import Figure, of_runs, timed
from tests.bench.peers import Turn, rows

# ------------------------------------------------------------------------------------------------------- figures


def test_faster_is_above_one_whatever_the_unit() -> None:
    assert Figure("a", 5.0, "ms").speed_against(10.0) == 2.0
    assert Figure("a", 500.0, "tokens/s").speed_against(250.0) == 2.0


def test_figures_from_repeats() -> None:
    assert of_runs("a", "tokens/s", [9.0, 12.0, 10.0]) == Figure("a", 10.0, "tokens/s", 0.3)
    assert 900 < timed("a", "us", lambda: time.sleep(0.001), 0.01).value < 1e6


def test_a_baseline_is_kept_by_name_and_unit(tmp_path: Path) -> None:
    assert Baseline(tmp_path).speed(Figure("a", 1.0, "ms")) is None
    Baseline(tmp_path).save([Figure("a", 10.0, "ms"), Figure("b", 10.0, "tokens/s")])
    Baseline(tmp_path).save([Figure("b", 20.0, "tokens/s")])
    again = Baseline(tmp_path)
    assert (again.speed(Figure("a", 5.0, "ms")), again.speed(Figure("b", 10.0, "tokens/s"))) == (2.0, 0.5)
    assert again.speed(Figure("a", 5.0, "us")) is None, "in another unit it is another figure"
    assert "commit" in again.origin()


def test_a_baseline_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    Baseline(tmp_path).path.write_text("{")
    assert Baseline(tmp_path).speed(Figure("a", 1.0, "ms")) is None


def test_the_suite_compares_with_what_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter((10.0, 5.0))
    figures = lambda quick: iter([Figure("an operation", next(values), "ms"), Figure("left out", 1.0, "ms")])  # noqa: E731
    monkeypatch.setitem(suite.PARTS, "kernels", figures)
    monkeypatch.setattr(suite, "end_orderly", lambda: None)  # this process is the tests'
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for flags in (["--save"], []):
        monkeypatch.setattr(sys, "argv", ["bench", "--only", "kernels", "--match", "operation", *flags])
        assert suite.main() == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("an operation"))
    assert first.split()[2:5] == ["10.0", "ms", "0%"] and second.split()[2:5] == ["5.0", "ms", "2.00"]


def test_prompts_of_two_seeds_share_nothing_but_what_is_asked_for() -> None:
    case = Case(2, prompt=12, output=1, shared=8)
    first, again, other = (case.trace(seed, 8192).rows for seed in ((1,), (1,), (2,)))
    assert len(first) == 4 and first == again
    assert first[0].prompt[:8] == first[1].prompt[:8] != other[0].prompt[:8]
    assert len({row.prompt[8:] for row in first}) == 4 and all(len(row.prompt) == 12 for row in first)


# ----------------------------------------------------------------------------------------------------- processes


def test_a_family_its_time_its_memory_and_its_socket() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            ours = processes.family(os.getpid())
            assert {os.getpid(), child.pid} <= ours
            port = listener.getsockname()[1]
            assert processes.listens(port, {os.getpid()}) and not processes.listens(port, {child.pid})
            assert processes.held_bytes({os.getpid()}) > 1e6 and processes.peak_bytes(os.getpid()) > 1e6
            assert processes.used_seconds(ours) > 0
        finally:
            child.kill()
            child.wait()
    assert not processes.listens(port, {os.getpid()})
    assert child.pid not in processes.family(os.getpid())


def test_our_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy, ours = iter((0.0, 2.0)), iter((100.0, 105.0)), iter((50.0, 54.0))
    monkeypatch.setattr(processes.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(processes, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(processes, "used_seconds", lambda pids: next(ours))
    with processes.Others() as others:
        pass
    assert others.cores == 0.5 and others.noisy


# ---------------------------------------------------------------------------------------------------- contenders


def test_figures_of_a_foreign_measurement(tmp_path: Path) -> None:
    told = {"best": {"out_tok_s": 12.5, "ttft_p50_ms": 40.0}, "repeats": [{"out_tok_s": 11.0}]}
    (tmp_path / "told").write_text(f"some noise\n{json.dumps(told)}\n")
    score = External("cat {path}").measure({"path": tmp_path / "told"}, 20, {})
    assert (score.rate, score.first_token) == (12.5, 0.04)
    with pytest.raises(NotMeasured, match="out_tok_s"):
        External(f"{sys.executable} -c print(1)").measure({}, 20, {})


def test_a_foreign_measurement_does_not_outlast_its_time() -> None:
    with pytest.raises(NotMeasured, match=r"0\.2 s"):
        External(f"{sys.executable} -c 'import time; time.sleep(60)'").measure({}, 0.2, {})


def test_a_server_that_ends_is_not_measured(tmp_path: Path) -> None:
    failing = Contender("none", "{python} -c 'raise SystemExit(3)' {model} {path} {port}")
    with pytest.raises(NotMeasured, match="exit code 3"), running(failing, "m", tmp_path, tmp_path / "log"):
        pytest.fail("nothing runs")


def test_a_server_that_never_answers_is_ended(tmp_path: Path) -> None:
    silent = Contender("silent", "{python} -c 'import time; time.sleep(60)'", ready_seconds=0.3)
    before = processes.family(os.getpid())
    with pytest.raises(NotMeasured, match="no token"), running(silent, "m", tmp_path, tmp_path / "log"):
        pytest.fail("nothing answers")
    assert processes.family(os.getpid()) == before


def test_ports_are_different() -> None:
    assert len(set(free_ports(5))) == 5


# ---------------------------------------------------------------------------------------------------- the tables


def turn(name: str, rate: float, others: float = 0.0, grpc: float | None = None) -> Turn:
    scores = {("c1", "http"): Score(rate, 0.01, others)}
    if grpc is not None:
        scores["c1", "grpc"] = Score(grpc, 0.01, others)
    return Turn(name, scores)


def test_a_ratio_is_against_the_mean_of_ours_before_and_after() -> None:
    (row,) = rows(turn("dyno", 100, grpc=110), turn("peer", 50), turn("dyno", 108, grpc=98), ["c1"])
    assert row == "| c1 | 100.0 / 108.0 | peer | 50.0 | **2.08** | 10.0 / 10.0 | 1.00 | 0.00 |"


def test_a_row_says_when_it_is_not_to_be_believed() -> None:
    (noisy,) = rows(turn("dyno", 100), turn("peer", 50, others=0.5), turn("dyno", 100), ["c1"])
    (drifting,) = rows(turn("dyno", 100), turn("peer", 50), turn("dyno", 80), ["c1"])
    assert noisy.endswith("| 0.50 ! |") and drifting.endswith("| 0.00 ! |")


def test_what_has_no_figure_is_not_measured() -> None:
    (row,) = rows(turn("dyno", 100), Turn("peer"), turn("dyno", 100), ["c1"])
    assert row == "| c1 | 100.0 / 100.0 | peer | not measured | | | | |"


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facing, "REST", 0.0)


def facing_each_other(rounds: int) -> tuple[list[str], facing.Rounds]:
    """Servers that are not there: ours does 100 and 110 over gRPC, the peer 50, and the third round twice as fast."""
    server = Running(SimpleNamespace(pid=os.getpid()), "m", 1, ("http://ours", "grpc://ours"), 0.0)  # type: ignore[arg-type]
    peer = replace(server, targets=("http://peer",))
    rates, order = {"http://ours": 100.0, "grpc://ours": 110.0, "http://peer": 50.0}, list[str]()

    def measure(server: Running, target: str, number: int) -> Score:
        order.append(target)
        return Score(rates[target] * (2 if number == 2 else 1), 0.01, 0.0)

    return order, facing.face(server, peer, rounds, measure)


def test_two_servers_take_turns_and_a_faster_minute_counts_for_both() -> None:
    order, told = facing_each_other(3)
    assert order[:6] == ["grpc://ours", "http://peer", "http://ours", "http://ours", "http://peer", "grpc://ours"]
    told.idle = 0.0
    line = facing.row("c1", "peer", told)
    assert line == ("| c1 | 100.0 | peer | 50.0 | **2.00** (2.00 to 2.00) | 10.0 / 10.0 | 1.10 (1.10 to 1.10) | 0.00 |")
    told.idle = 0.5
    assert facing.row("c1", "peer", told).endswith("| 0.50 ! |"), (
        "a server that nobody asks takes the cores of the other"
    )
    assert "**2.00** | 10.0" in facing.row("c1", "peer", facing_each_other(1)[1])


def test_every_command_of_the_file_can_be_filled_in(tmp_path: Path) -> None:
    options = argparse.Namespace(
        file=Path(peers.__file__).with_name("peers.toml"), peers=tmp_path, flags="--max-rows 8", load="foreign",
        models=["tiny-dense"], against=["vllm", "llama", "openvino-int8"], cases=["c1", "long"], repeats=1, rounds=1,
        quiet_seconds=0.0,
    )  # fmt: skip
    plan = peers._plan(options)
    served = {"model": "m", "path": "p", "port": 1, "grpc_port": 2, "python": "py", "pid": 3}
    for case in plan.cases:
        words = {**peers._words(case), **served}
        for one in (plan.ours, *plan.peers):
            assert "{" not in one.command.format(**words) and "{" not in "".join(one.environment.values())
        assert plan.load is not None and "{" not in plan.load.command.format(**words)
    assert plan.ours.command.endswith("--max-rows 8")


def test_an_idle_process_uses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "IDLE_SECONDS", 0.2)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert curves.idle_share(child.pid) < 1.0
    finally:
        child.kill()
        child.wait()
