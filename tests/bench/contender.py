"""An engine that is measured: a server that is started by a command, or a command that measures itself in process."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client import loop
from client.api import ClientError
from client.connect import connect
from client.load.arrivals import Closed
from client.load.runner import Bounds, Load, run
from client.load.trace import Trace, TraceRow
from tests.bench import processes
from tests.bench.closed import FIRST_ID, Case, measure

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.25
STOP_SECONDS = 20.0


class NotMeasured(RuntimeError):
    """A contender that did not start, ended early or told no figure; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Score:
    """Output tokens a second, median time to first token in seconds (None: not told), cores that others used."""

    rate: float
    first_token: float | None
    others: float


@dataclass(frozen=True, slots=True)
class External:
    """A load command of somebody else's instead of ours, or an engine's own measurement: what it is called with, and
    the keys under which it prints tokens a second and milliseconds to the first token."""

    command: str
    rate: str = "out_tok_s"
    first_token_ms: str = "ttft_p50_ms"

    def measure(self, words: Mapping[str, object], seconds: float, environment: Mapping[str, str]) -> Score:
        """The first figures of its output. Raises NotMeasured."""
        with processes.Others((int(str(words.get("pid", 0))),)) as others:
            text = _run(shlex.split(self.command.format(**words)), seconds, environment)
        rate, first = (re.search(rf'"{key}": *([0-9.]+)', text) for key in (self.rate, self.first_token_ms))
        if rate is None:
            raise NotMeasured(f"{self.rate} is not in its output; its last words: {text[-400:]}")
        return Score(float(rate[1]), None if first is None else float(first[1]) / 1e3, others.cores)


@dataclass(frozen=True)
class Contender:
    """`command` starts a server ({model}, {path}, {port}, {grpc_port} and {python} are filled in), or, with `alone`,
    measures in process ({case} and the numbers of the case as well)."""

    name: str
    command: str
    alone: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    targets: Sequence[str] = ("http://127.0.0.1:{port}",)
    ready_seconds: float = 300.0


@dataclass(slots=True)
class Running:
    """A contender's server that has given its first token."""

    process: subprocess.Popen[bytes]
    model: str
    port: int
    targets: tuple[str, ...]
    start_seconds: float

    def measure(self, case: Case, target: str, seed: Sequence[int]) -> Score:
        """With our own load client. Raises LoadFailed, NotMeasured."""
        self.check()
        with processes.Others((self.process.pid,)) as others:
            summary = measure(target, self.model, case, seed)
        self.check()
        return Score(summary.output_rate, summary.first_token.p50, others.cores)

    def check(self) -> None:
        """Raises NotMeasured unless it lives and it is the one that listens."""
        if self.process.poll() is not None:
            raise NotMeasured(f"the server ended with exit code {self.process.returncode}")
        if not processes.listens(self.port, processes.family(self.process.pid)):
            raise NotMeasured(f"port {self.port} does not belong to the server that was started")


@contextmanager
def running(contender: Contender, model: str, path: Path, log: Path) -> Iterator[Running]:
    """Started, waited for until its first token, and ended with all its children whatever happens."""
    port, grpc_port = free_ports(2)
    words = {"model": model, "path": path, "port": port, "grpc_port": grpc_port, "python": sys.executable}
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            shlex.split(contender.command.format(**words)),
            cwd=ROOT,
            env={**os.environ, **contender.environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Running(process, model, port, tuple(target.format(**words) for target in contender.targets), 0.0)
    try:
        while not _answers(server):
            if time.monotonic() - began > contender.ready_seconds:
                raise NotMeasured(f"{contender.name} gave no token in {contender.ready_seconds:g} s; see {log}")
            if process.poll() is not None:
                raise NotMeasured(f"{contender.name} ended with exit code {process.returncode}; see {log}")
            time.sleep(POLL_SECONDS)
        server.start_seconds = time.monotonic() - began
        yield server
    finally:
        _end(process)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _answers(server: Running) -> bool:
    """Whether the process that we started, and no other one on its port, gives a token."""
    try:
        server.check()
    except NotMeasured:
        return False

    async def ask() -> bool:
        async with connect(server.targets[0]) as client:
            one = Trace((TraceRow(0.0, tuple(range(FIRST_ID, FIRST_ID + 8)), 1),))
            done = await run(client, Load(one, Closed(1), server.model, routing=None, bounds=Bounds(120, 120)))
            return all(record.ok for record in done.records)

    try:
        return loop.run(ask())
    except (ClientError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process we started and the session it leads; nobody else's."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> str:
    """What it prints. Its children end with it."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"it took over {seconds:g} s") from None
    finally:
        _end(process)
        assert process.stdout is not None
        process.stdout.close()
    return out.decode(errors="replace")
