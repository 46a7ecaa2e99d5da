from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from client.api import GenerateRequest, Sampling, StreamCut, Unreachable
from client.connect import connect
from client.launch import LaunchError, ServerProcess, command, environment

pytestmark = pytest.mark.usefixtures("fake_processes")


def gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_is_ready_while_within_and_gone_after() -> None:
    with ServerProcess(["--model", "a"]) as server:
        assert server.grpc.startswith("grpc://127.0.0.1:")
        with urllib.request.urlopen(f"{server.http}/readyz") as answer:
            assert answer.status == 200
    assert gone(server.pid)
    assert server.stop() == 0  # again, harmlessly, and the exit code is still known


async def test_the_same_within_an_event_loop() -> None:
    async with ServerProcess(["--model", "a"]) as server:
        assert not gone(server.pid)
    assert gone(server.pid)


def test_a_server_that_ends_at_once_is_reported_with_its_last_words() -> None:
    server = ServerProcess(["--broken"])
    with pytest.raises(LaunchError, match=r"exit code 1; its last words:\nfake: no such model"):
        server.start()
    assert gone(server.pid)


def test_a_server_that_never_gets_ready_is_given_up_and_stopped() -> None:
    server = ServerProcess(["--model", "a", "--never-ready"], ready_seconds=2.5)
    with pytest.raises(LaunchError, match=r"not ready within 2\.5 s"):
        server.start()
    assert gone(server.pid)


def test_a_server_that_does_not_listen_to_sigterm_is_killed() -> None:
    server = ServerProcess(["--model", "a", "--deaf"], stop_seconds=0.2)
    server.start()
    began = time.monotonic()
    assert server.stop() == -9
    assert time.monotonic() - began < 5
    assert gone(server.pid)


def test_a_program_that_dies_leaves_no_server() -> None:
    program = (
        "from tests.client.conftest import fake_command; from client import launch;"
        "launch.command = fake_command; launch.require_server = lambda: None;"
        "server = launch.ServerProcess(['--model', 'a']); server.start(); print(server.pid); 1 / 0"
    )
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert "ZeroDivisionError" in done.stderr
    assert gone(int(done.stdout))


def test_a_file_of_the_user_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "client.py").write_text("print('the wrong one')")
    line = command("client.cli", "--help")
    done = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the wrong one" not in done.stdout


@pytest.mark.parametrize("transport", ["http", "grpc"])
async def test_a_server_that_is_killed_cuts_the_stream(transport: str) -> None:
    async with (
        ServerProcess(["--model", "a", "--gap", "0.05"]) as server,
        connect(getattr(server, transport)) as client,
    ):
        assert server.pid is not None
        with pytest.raises(StreamCut, match="broke before the answer was whole"):
            async for _ in client.generate(GenerateRequest("hi", "a", Sampling(max_tokens=200))):
                os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(Unreachable):
            await client.models()
