"""The dyno command against a fake server in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client import launch
from client.cli import app
from client.launch import ServerProcess
from client.load.trace import Trace, TraceRow
from tests.client.answers import CARD


def dyno(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture(params=["http", "grpc"])
def target(request: pytest.FixtureRequest, fake_process: ServerProcess) -> str:
    return str(getattr(fake_process, request.param))


def test_it_tells_its_version() -> None:
    done = dyno("--version")
    assert (done.exit_code, done.stdout) == (0, f"dyno {version('dyno')}\n")
    assert "dynamometer" in dyno("--help").stdout


def test_generate_streams_the_text_then_the_facts(target: str) -> None:
    asked = ("generate", "once upon a time", "--target", target, "--model", "fast")
    done = dyno(*asked, "--max-tokens", "3", "--seed", "5")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("w5.0 w5.1 w5.2 ")
    assert "Latency" in done.stdout
    assert "Routing of 2 tokens" in done.stdout


def test_generate_as_json(target: str) -> None:
    done = dyno("generate", "once upon", "--target", target, "--model", "fast", "--max-tokens", "3", "--json")
    told = json.loads(done.stdout)
    assert told["text"] == "w0.0 w0.1 w0.2 "
    assert told["token_ids"] == [0, 1, 2]
    assert told["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "cached_tokens": 2}
    assert told["routing"]["layers"][0]["expert_tokens"] == [3, 1, 0, 0]
    assert 0.01 <= told["client"]["first_token"] < told["client"]["total"]


def test_models(target: str) -> None:
    assert "fast" in dyno("models", "--target", target).stdout
    cards = json.loads(dyno("models", "--target", target, "--json").stdout)
    assert [card["id"] for card in cards] == ["fast", "slow"]
    assert cards[0]["total_parameters"] == CARD["total_parameters"]


def test_load_in_both_loops(target: str) -> None:
    for how in (("--rate", "200"), ("--concurrency", "4")):
        done = dyno(
            *("load", "--target", target, "--model", "fast", *how, "--requests", "8"),
            *("--prompts", "random", "--prompt-tokens", "16", "--output-tokens", "4", "--json"),
        )
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert told["schema"] == "dyno.load/1"
        assert (told["summary"]["completed"], told["summary"]["output_tokens"]) == (8, 32)
        assert told["summary"]["first_token"]["p50"] >= 0.9 * 0.01
        assert told["summary"]["per_token"]["count"] == 8


def test_load_prints_a_table_and_keeps_the_trace(fake_process: ServerProcess, tmp_path: Path) -> None:
    kept = tmp_path / "trace.jsonl"
    arguments = ("load", "--target", fake_process.http, "--model", "fast")
    first = dyno(*arguments, "--rate", "100", "--requests", "5", "--output-tokens", "2", "--save-trace", str(kept))
    assert "time to first token" in first.stdout
    trace = Trace.read(kept)
    assert len(trace.rows) == 5
    again = dyno(*arguments, "--trace", str(kept), "--json")
    assert json.loads(again.stdout)["trace"] == trace.hash


def test_load_prints_goodput_where_there_is_an_objective(fake_process: ServerProcess) -> None:
    arguments = ("load", "--target", fake_process.http, "--model", "fast", "--concurrency", "2", "--requests", "4")
    asked = (*arguments, "--prompts", "random", "--prompt-tokens", "16", "--output-tokens", "2")
    assert "goodput" not in dyno(*asked).stdout
    held = " ".join(dyno(*asked, "--first-token-within", "9").stdout.split())
    assert "requests/s: 100% of the requests within first token 9000 ms" in held
    missed = " ".join(dyno(*asked, "--first-token-within", "0.000001", "--per-token-within", "9").stdout.split())
    assert "goodput 0 requests/s: 0% of the requests within first token 0.001 ms, per output token 9000 ms" in missed


def test_who_leaves_as_the_trace_says_misses_no_objective(fake_process: ServerProcess, tmp_path: Path) -> None:
    rows = (TraceRow(0.0, "once upon", 2), TraceRow(0.0, "once upon", 200, cancel_after=0.05))
    Trace(rows).write(tmp_path / "t.jsonl")
    asked = ("load", "--target", fake_process.http, "--model", "fast", "--trace", str(tmp_path / "t.jsonl"))
    told = " ".join(dyno(*asked, "--first-token-within", "9").stdout.split())
    assert "1 of 2 requests answered (1 left, as the trace says) in" in told
    assert "requests/s: 100% of the requests within first token 9000 ms" in told
    found = json.loads(dyno(*asked, "--first-token-within", "9", "--json").stdout)["summary"]
    assert (found["completed"], found["errors"], found["cancelled"], found["goodput_share"]) == (1, 0, 1, 1.0)


@pytest.mark.parametrize(("prompts", "noted"), [("random", True), ("shared", False)])
def test_load_notes_prompts_that_were_cached_though_they_share_nothing(
    fake_process: ServerProcess, prompts: str, noted: bool
) -> None:
    arguments = ("load", "--target", fake_process.http, "--model", "fast", "--concurrency", "2", "--requests", "3")
    asked = (*arguments, "--prompts", prompts, "--prompt-tokens", "16", "--output-tokens", "2")
    note = "12% of the prompts were cached, from an earlier run perhaps; --seed N sends others"  # 2 of 16 tokens
    assert (note in json.loads(dyno(*asked, "--json").stdout)["warnings"]) is noted
    assert ("12% of the prompts were cached" in dyno(*asked).stdout) is noted


def test_load_with_prompts_of_an_exact_length(fake_process: ServerProcess, tmp_path: Path) -> None:
    kept = tmp_path / "trace.jsonl"
    done = dyno(
        *("load", "--target", fake_process.http, "--model", "fast", "--concurrency", "2", "--requests", "3"),
        *("--prompt-tokens", "90", "--output-tokens", "2", "--save-trace", str(kept)),
    )
    assert done.exit_code == 0, done.output
    assert [len(row.prompt) for row in Trace.read(kept).rows] == [90, 90, 90]


@pytest.mark.parametrize(("refused", "code"), [(1, 0), (2, 1)])
def test_load_fails_where_more_than_half_of_the_requests_did(
    refused: int, code: int, fake_process: ServerProcess, tmp_path: Path
) -> None:
    longest = (4, *[CARD["context"] + 1] * refused)  # which the fake refuses, but for the first
    Trace(tuple(TraceRow(0.0, "once upon", tokens) for tokens in longest)).write(tmp_path / "t.jsonl")
    done = dyno("load", "--target", fake_process.http, "--model", "fast", "--trace", str(tmp_path / "t.jsonl"))
    assert done.exit_code == code, done.output
    assert ("dyno: 2 of 3 requests failed" in done.stderr) is bool(code)


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "nobody there": (("models", "--target", "http://127.0.0.1:9"), 1, "nothing answers at http://127.0.0.1:9"),
    "no target": (("models", "--target", "somewhere"), 2, "is not http://HOST:PORT or grpc://HOST:PORT"),
    "no pace": (("load", "--requests", "3"), 2, "--rate R, --concurrency C or --trace FILE"),
    "two paces": (("load", "--rate", "1", "--concurrency", "1"), 2, "not both"),
    "bad rate": (("load", "--rate", "-1"), 2, "rate must be positive"),
    "no file": (("compare", "nowhere.toml"), 2, "there is no experiment nowhere.toml"),
    "no command": (("fly",), 2, "No such command"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_told_in_a_line(case: str) -> None:
    arguments, code, message = WRONG[case]
    done = dyno(*arguments)
    assert done.exit_code == code
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_the_servers_refusals_are_passed_on(target: str) -> None:
    for command in (("generate", "hi"), ("load", "--concurrency", "1", "--requests", "1")):
        done = dyno(*command, "--target", target, "--model", "other")
        assert done.exit_code == 1
        assert "'other'" in done.stderr
    done = dyno("generate", "hi", "--target", target, "--model", "fast", "--max-tokens", "999")
    assert (done.exit_code, done.stderr) == (1, "dyno: max_tokens must be at most 256, got 999\n")


def test_a_workload_that_does_not_fit_is_refused_before_it_is_sent(fake_process: ServerProcess) -> None:
    asked = ("load", "--target", fake_process.http, "--model", "fast")
    done = dyno(*asked, "--concurrency", "1", "--prompt-tokens", "250")
    assert done.exit_code == 1
    assert "model fast holds 256 tokens; the workload needs 314" in done.stderr


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of the program that the command became, which ended with exit code 7."""
    became: list[str] = []

    def execve(path: str, line: list[str], environment: dict[str, str]) -> None:
        became.extend(line)
        raise SystemExit(7)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(launch, "require_server", lambda: None)
    return became


@pytest.mark.parametrize("command", [("serve", "server"), ("train", "model", "train"), ("inspect", "model", "inspect")])
def test_servers_and_models_are_programs_of_their_own(command: tuple[str, ...], became: list[str]) -> None:
    assert dyno(command[0], "tales", "--port", "0", "--json").exit_code == 7
    assert became == [sys.executable, "-P", "-m", *command[1:], "tales", "--port", "0", "--json"]


@pytest.mark.parametrize("command", [("serve", "server"), ("train", "model", "train"), ("inspect", "model", "inspect")])
def test_their_help_is_the_one_that_lists_their_options(command: tuple[str, ...], became: list[str]) -> None:
    assert dyno(command[0], "--help").exit_code == 7
    assert became[3:] == [*command[1:], "--help"]


@pytest.mark.parametrize(("command", "flag"), [("serve", "--scale"), ("train", "--threads"), ("inspect", "--scale")])
def test_their_help_names_what_was_typed(command: str, flag: str) -> None:
    with start(command, "--help") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"sage: dyno {command} [" in out and flag in out


def test_a_client_alone_says_that_it_has_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    done = dyno("serve")
    assert done.exit_code == 1
    assert "pip install '.[server]'" in done.stderr


def start(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "client.cli", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=launch.environment())


def interrupt(process: subprocess.Popen[str], fake: ServerProcess, after: int) -> tuple[str, str]:
    """Ctrl-C once the fake has seen so many more generations; (stdout, stderr)."""

    def seen() -> int:
        with urllib.request.urlopen(f"{fake.http}/seen") as answer:
            return int(answer.read())

    begun = seen()
    while seen() < begun + after and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=20)


def test_an_interrupted_load_shows_what_it_has(fake_process: ServerProcess) -> None:
    arguments = ("--target", fake_process.http, "--model", "fast", "--rate", "20", "--requests", "1000", "--json")
    with start("load", *arguments) as process:
        out, err = interrupt(process, fake_process, after=15)
    assert process.returncode == 130
    told = json.loads(out)
    assert told["interrupted"]
    assert 0 < told["summary"]["completed"] < 1000
    assert "interrupted" in err
    assert "Traceback" not in err


COMPARISON = """
[[architectures]]
name = "fast"
model = "fast"
target = "TARGET"
[[architectures]]
name = "slow"
model = "slow"
target = "TARGET"
[workload]
requests = 20
output_tokens = 20
[arrivals]
kind = "constant"
rates = [50]
"""


def test_an_interrupted_comparison_keeps_its_report(fake_process: ServerProcess, tmp_path: Path) -> None:
    file, out = tmp_path / "long.toml", tmp_path / "out"
    file.write_text(COMPARISON.replace("TARGET", fake_process.http))
    with start("compare", str(file), "--out", str(out)) as process:
        shown, err = interrupt(process, fake_process, after=40)
    assert process.returncode == 130
    assert "stopped early" in shown
    assert "Traceback" not in err
    told = json.loads((out / "results.json").read_text())
    assert told["interrupted"]
    assert 0 < len(told["cells"]) < 10
    assert (out / "report.html").exists()


def test_an_interrupted_generation_ends_quietly(fake_process: ServerProcess) -> None:
    with start("generate", "hi", "--target", fake_process.http, "--model", "slow", "--max-tokens", "256") as process:
        assert process.stdout is not None
        process.stdout.read(8)  # it has begun
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == "dyno: interrupted\n"


def test_chat_remembers_and_leaves(fake_process: ServerProcess) -> None:
    said = "hello there\nand again\n/new\nonce more\n/quit\nnever sent\n"
    arguments = ["chat", "--target", fake_process.grpc, "--model", "fast", "--max-tokens", "2"]
    done = CliRunner().invoke(app, arguments, input=said, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    # The fake counts a message as a token: one, then three with the answer between, then one again.
    assert [line.split()[0] for line in done.stdout.splitlines() if "prompt tokens" in line] == ["1", "3", "1"]
