"""One JSON line for every request that ended: ids, lengths, times, a summary of its routing. Never what was written."""

from __future__ import annotations

import queue
import sys
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from server.engine.routes import summarise
from server.engine.stats import RequestStats

log = structlog.get_logger()

STDOUT = "-"
MOST_WAITING = 10_000
CLOSING_SECONDS = 2.0


class RequestLog:
    """Called on the engine's thread, writes on one of its own: a disk that is slow or full costs lines, not tokens."""

    def __init__(self, path: str) -> None:
        """`path`: appended to; "-" is the standard output. Raises OSError."""
        self.lost = 0  # lines
        # Unbuffered: a line that cannot be written is lost at once, and is not tried again with the next.
        self._file = sys.stdout.buffer if path == STDOUT else Path(path).open("ab", buffering=0)  # noqa: SIM115
        self._waiting: queue.Queue[tuple[datetime, RequestStats] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="request-log", daemon=True)
        self._thread.start()

    def __call__(self, stats: RequestStats) -> None:
        """Write about this request soon."""
        try:
            self._waiting.put_nowait((datetime.now(UTC), stats))
        except queue.Full:
            self._lose("more requests end than can be written")

    def close(self) -> None:
        """Write what waits, within seconds."""
        try:
            self._waiting.put(None, timeout=CLOSING_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSING_SECONDS)

    def _write_all(self) -> None:
        while (one := self._waiting.get()) is not None:
            try:
                self._file.write(orjson.dumps(line(*one)) + b"\n")
                self._file.flush()
            except (OSError, ValueError) as error:
                self._lose(str(error))
        if self._file is not sys.stdout.buffer:
            self._file.close()

    def _lose(self, why: str) -> None:
        if not self.lost:
            log.warning("the request log loses lines", why=why)
        self.lost += 1


def line(when: datetime, stats: RequestStats) -> dict[str, Any]:
    """What is told of a request. Seconds; `id` is the call's, `choice` which of its answers."""
    id, _, choice = stats.id.rpartition("-")
    latency = asdict(stats.latency) | {"short_of_blocks": stats.short_of_blocks}
    return {
        "time": when.isoformat(timespec="milliseconds"),
        "id": id,
        "choice": int(choice),
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
