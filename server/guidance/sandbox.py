"""The process that tries grammars out, as its parent sees it: asked in turn, ended when it takes too long."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path

import structlog

from server.errors import FormsUntried
from server.guidance import trial
from server.limits import Limits

log = structlog.get_logger()

START_SECONDS = 30.0  # python and the library, on a busy machine

TOO_LONG = "it takes too long to compile"
TOO_LARGE = "it is too deep or too large to compile"


class Sandbox:
    """For one thread at a time. The process is started with the first grammar, and anew after one that ended it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def verdict(self, grammar: str) -> str | None:
        """Why a grammar cannot be used; None when it can. Raises FormsUntried where it cannot be tried out."""
        process = self._process or self._start()
        try:
            answer = self._ask(process, grammar)
        except TimeoutError:
            self.close()
            return TOO_LONG
        except (OSError, EOFError):
            self.close()
            return TOO_LARGE
        return None if answer is None else str(answer)

    def interrupt(self) -> None:
        """From any thread: whoever asks gets an answer at once."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(Path(trial.__file__))]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env={}
            )
            _read_line(self._process, START_SECONDS)
        except (OSError, EOFError) as error:  # the system has no descriptors, processes or memory left, or no time
            self.close()
            log.warning("forms of answers cannot be tried out", why=str(error) or type(error).__name__)
            message = "forms of answers cannot be tried out at the moment"
            raise FormsUntried(message, retry_after=self._limits.retry_after_seconds) from error
        return self._process

    def _ask(self, process: subprocess.Popen[bytes], grammar: str) -> object:
        assert process.stdin is not None
        process.stdin.write(json.dumps(grammar).encode() + b"\n")
        return json.loads(_read_line(process, self._limits.guidance_seconds))


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Raises TimeoutError when no whole line comes in time, EOFError when the process has ended."""
    assert process.stdout is not None
    give_up, line = time.monotonic() + seconds, b""
    readable = select.poll()  # select.select takes no descriptor from 1024 on, and every connection has one
    readable.register(process.stdout, select.POLLIN)
    while not line.endswith(b"\n"):
        left = give_up - time.monotonic()
        if left <= 0 or not readable.poll(left * 1000):
            raise TimeoutError
        read = process.stdout.read(65536)
        if not read:
            raise EOFError
        line += read
    return line
