"""From a server's request log (`--request-log`) to a trace: the same instants, lengths and models of use.

The log never holds what was written, so prompts are random token ids of the logged lengths. The part that was found in
the prefix cache is a common beginning of all prompts: a replay finds about as much there. The `user` of a request is
the tenant of its row.

Requests that were refused before an engine had them are not in the log, and those that failed or never had a token have
no length to replay: what is recorded of an overload is its survivors.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from client.load.trace import Trace, TraceError, TraceRow

_ENDED = ("stop", "length", "cancelled", "deadline")


def record(path: Path, vocab: int, model: str = "", seed: int = 0, skip: int = 0) -> Trace:
    """The requests of one model but the first `skip`, those of a call's first answer only. Raises TraceError with the
    line, and OSError."""
    if vocab < 1:
        raise TraceError(f"vocab must be at least 1, got {vocab}")
    lines = list(_lines(path))
    models = sorted({line["model"] for _, line in lines})
    if not model and len(models) > 1:
        raise TraceError(f"{path} is of several models ({', '.join(models)}): say which with --model")
    told = [(n, line) for n, line in lines if line["choice"] == 0 and model in ("", line["model"])]
    told = [(n, line) for n, line in told if line["outcome"] in _ENDED and line["completion_tokens"] > 0]
    told = sorted(told, key=lambda one: _arrival(path, *one))[skip:]
    if not told:
        raise TraceError(f"{path} has no request of {model or 'any model'} that was answered; it has {models}")
    arrived = [_arrival(path, number, line) for number, line in told]
    zero = min(arrived)
    longest = max(line["cached_tokens"] for _, line in told)
    common = np.random.default_rng((seed, 0)).integers(0, vocab, longest).tolist()
    rows = [_row(line, at - zero, common, vocab, (seed, 1, n)) for (n, line), at in zip(told, arrived, strict=True)]
    return Trace(tuple(sorted(rows, key=lambda row: row.offset)))


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    needed = ("time", "model", "outcome", "choice", "prompt_tokens", "completion_tokens", "cached_tokens", "latency")
    for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise TraceError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(line, dict) or any(name not in line for name in needed):
            missing = [name for name in needed if not isinstance(line, dict) or name not in line]
            raise TraceError(f"line {number} of {path} is no line of a request log: it has no {missing[0]!r}")
        yield number, line


def _arrival(path: Path, number: int, line: dict[str, Any]) -> float:
    """The log has the end, and how long it took."""
    try:
        return datetime.fromisoformat(line["time"]).timestamp() - float(line["latency"]["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"line {number} of {path}: {error}") from error


def _row(line: dict[str, Any], offset: float, common: list[int], vocab: int, seed: tuple[int, ...]) -> TraceRow:
    shared = common[: min(line["cached_tokens"], line["prompt_tokens"])]
    own = np.random.default_rng(seed).integers(0, vocab, line["prompt_tokens"] - len(shared)).tolist()
    left = line["outcome"] == "cancelled"
    return TraceRow(
        offset=round(offset, 6),
        prompt=tuple(shared + own),
        max_tokens=line["completion_tokens"] + left,  # one who left would have been told more
        seed=seed[-1],
        tenant=str(line.get("user") or ""),
        cancel_after=round(float(line["latency"]["total"]), 6) if left else None,
    )
