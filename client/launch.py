"""Starts and stops a server process: `python -m server` on free ports, known to be ready, never left behind."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from client.api import ClientError

_LISTENING = re.compile(r"listening http=(\S+) grpc=(\S+)")
# The server is on this machine: a proxy from the environment must not be asked for it.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TAIL_LINES = 200
_POLL_SECONDS = 0.05


class LaunchError(ClientError):
    """The server process did not come up; the message ends with the last lines it wrote."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of our own packages (`server`, `model`) as a program.

    -P: a `server.py` or `model/` in the user's folder must not be taken for ours.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, with the packages beside this one on the path and output that is not held back."""
    beside = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (beside, os.environ.get("PYTHONPATH", "")) if part)
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def require_server() -> None:
    """Raises LaunchError when this installation is the client alone."""
    missing = [name for name in ("server", "torch", "fastapi") if find_spec(name) is None]
    if missing:
        how = "in Dyno's folder, run make install or pip install '.[server]'"
        raise LaunchError(f"the server is not installed (no {', '.join(missing)}): {how}")


@contextlib.contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Within, this thread and the processes it starts run on these cores only. Raises LaunchError for cores there are
    not, or where the system knows no pinning."""
    if not cores:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise LaunchError("this system cannot pin a process to cores: leave cores out")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise LaunchError(f"cores {sorted(cores)} cannot be had: this process may use {sorted(before)}") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class ServerProcess:
    """A server of our own, on ports that the system chose. `with` and `async with` start it and stop it again.

    It gets a process group of its own, so that Ctrl-C reaches only us and we decide when it ends.
    """

    def __init__(
        self,
        flags: Sequence[str],
        *,
        ready_seconds: float = 120.0,
        stop_seconds: float = 10.0,
        cores: Sequence[int] = (),
    ) -> None:
        """`flags` are those of `python -m server`, without host and ports; `cores` are where it runs, if not all."""
        self._cores = frozenset(cores)
        self._command = command("server", "--host", "127.0.0.1", "--port", "0", "--grpc-port", "0", *flags)
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._heard = threading.Event()  # the ports are known, or never will be
        self.http = ""  # http://HOST:PORT once started
        self.grpc = ""  # grpc://HOST:PORT once started

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until /readyz is 200. Raises LaunchError, with nothing left running."""
        require_server()
        deadline = time.monotonic() + self._ready_seconds
        with pinned(self._cores):
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment(),
                process_group=0,
            )
        atexit.register(self.stop)
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()
        try:
            self._wait_ready(deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int | None:
        """SIGTERM, then SIGKILL when it does not end in time; the exit code. Does nothing a second time."""
        process = self._process
        if process is None:
            return None
        process.terminate()
        try:
            process.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join(1.0)  # a grandchild may hold the pipe; its words are of no more use
        atexit.unregister(self.stop)
        return process.returncode

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._tail.append(line.rstrip())
                if not self._heard.is_set() and (found := _LISTENING.search(line)):
                    self.http, self.grpc = f"http://{found[1]}", f"grpc://{found[2]}"
                    self._heard.set()
        self._heard.set()

    def _wait_ready(self, deadline: float) -> None:
        if not self._heard.wait(max(0.0, deadline - time.monotonic())):
            raise self._failure(f"it named no ports within {self._ready_seconds:g} s")
        while self._lives() and not self._ready():
            if time.monotonic() > deadline:
                raise self._failure(f"it was not ready within {self._ready_seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def _lives(self) -> bool:
        """True while the process runs and has named its ports. Raises LaunchError otherwise."""
        assert self._process is not None
        if not self.http:  # its output has ended, so it has or is about to
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2.0)
        if self._process.poll() is not None:
            raise self._failure(f"it ended with exit code {self._process.returncode}")
        if not self.http:
            raise self._failure("it closed its output without naming its ports")
        return True

    def _ready(self) -> bool:
        try:
            with _DIRECT.open(f"{self.http}/readyz", timeout=5):
                return True
        except OSError:  # URLError is one: refused, or a status that is not 200
            return False

    def _failure(self, reason: str) -> LaunchError:
        last = "\n".join(list(self._tail)[-12:])
        return LaunchError(f"the server did not start: {reason}" + (f"; its last words:\n{last}" if last else ""))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.start)
        except asyncio.CancelledError:
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
