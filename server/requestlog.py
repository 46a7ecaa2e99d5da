"""One JSON line for every request that ended: ids, lengths, times, a summary of its routing. Never what was written:
of the caller's own words there are two labels, its id for the request (`x-request-id`) and its `user`; of the
operator's, the name of its key."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from server.aside import Aside
from server.engine.routes import summarise
from server.engine.stats import RequestStats

STDOUT = "-"


class RequestLog:
    """Called on the engine's thread, writes on one of its own: a disk that is slow or full costs lines, not tokens."""

    def __init__(self, path: str) -> None:
        """`path`: appended to, and opened anew where another file, or none, has come in its place: it was rotated.
        "-" is the standard output. Raises OSError."""
        self._path = None if path == STDOUT else Path(path)
        self._file = sys.stdout.buffer if self._path is None else _opened(self._path)
        self._aside = Aside[tuple[datetime, RequestStats]]("request log", self._write)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._aside.lost

    def __call__(self, stats: RequestStats) -> None:
        """Write about this request soon."""
        self._aside.put((datetime.now(UTC), stats))

    def close(self) -> None:
        """Write what waits, within seconds."""
        self._aside.close()
        if self._file is not sys.stdout.buffer:
            self._file.close()

    def _write(self, ended: tuple[datetime, RequestStats]) -> None:
        if self._path is not None and not _is_at(self._path, self._file):
            with contextlib.suppress(OSError):  # better into the old one than nowhere
                old, self._file = self._file, _opened(self._path)
                old.close()
        self._file.write(orjson.dumps(line(*ended)) + b"\n")
        self._file.flush()


def _opened(path: Path) -> BinaryIO:
    """Unbuffered: a line that cannot be written is lost at once, and is not tried again with the next."""
    return path.open("ab", buffering=0)


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def line(when: datetime, stats: RequestStats) -> dict[str, Any]:
    """What is told of a request. Seconds; `id` is the call's, `choice` which of its answers."""
    latency = asdict(stats.latency) | {"short_of_blocks": stats.short_of_blocks}
    return {
        "time": when.isoformat(timespec="milliseconds"),
        "id": stats.call,
        "given_id": stats.given_id,
        "choice": stats.choice,
        "user": stats.user,
        "tenant": stats.tenant or None,
        "trace_id": stats.trace and stats.trace.trace_id,
        "model": stats.model,
        "outcome": str(stats.outcome),
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "cached_tokens": stats.cached_tokens,
        "recomputed_tokens": stats.recomputed_tokens,
        "preemptions": stats.preemptions,
        "steps": stats.steps,
        "mean_batch": stats.mean_batch,
        "cache_bytes": stats.cache_bytes,
        "flops": stats.compute.operations.total,
        "latency": latency,
        "routing": asdict(summarise(stats.routing)) if stats.routing else None,
    }
