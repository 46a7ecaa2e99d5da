"""A trace: the exact requests of a load, with the instants they are due. One trace, replayed, is a fair comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from client.api import GenerateRequest, RoutingDetail, Sampling

FORMAT = "dyno.trace/1"


class TraceError(ValueError):
    """A trace file that cannot be read; the message has the line."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request. `offset` is seconds from the start; with `ignore_eos` every answer has exactly max_tokens tokens.

    A user who leaves closes the stream `cancel_after` seconds after sending; `tenant` is the server's `user`.
    """

    offset: float
    prompt: str | tuple[int, ...]
    max_tokens: int
    seed: int = 0
    temperature: float = 0.0
    ignore_eos: bool = True
    tenant: str = ""
    cancel_after: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def request(self, model: str, routing: RoutingDetail | None = RoutingDetail.LAYERS) -> GenerateRequest:
        """What is sent for this row."""
        sampling = Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            ignore_eos=self.ignore_eos,
        )
        return GenerateRequest(self.prompt, model, sampling, routing=routing, user=self.tenant)


@dataclass(frozen=True)
class Trace:
    """Rows in the order of their offsets."""

    rows: tuple[TraceRow, ...]

    @cached_property
    def hash(self) -> str:
        """64 hex digits that any change of any row changes. Stamped on every result."""
        return hashlib.sha256(b"\n".join(_line(row) for row in self.rows)).hexdigest()

    @property
    def seconds(self) -> float:
        """Offset of the last row."""
        return max((row.offset for row in self.rows), default=0.0)

    def timed(self, offsets: Iterable[float]) -> Trace:
        """A trace of the same requests at other instants, one for each."""
        timed = zip(offsets, self.rows, strict=True)
        return Trace(tuple(replace(row, offset=offset) for offset, row in timed))

    def write(self, path: Path) -> None:
        """One JSON object a line, after a first line that names the format."""
        head = orjson.dumps({"format": FORMAT, "rows": len(self.rows)})
        path.write_bytes(b"\n".join([head, *(_line(row) for row in self.rows), b""]))

    @staticmethod
    def read(path: Path) -> Trace:
        """A trace that `write` wrote. Raises TraceError."""
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError as error:
            raise TraceError(f"there is no trace {path}") from error
        head = _object(lines[0], 1) if lines else {}
        if head.get("format") != FORMAT:
            raise TraceError(f"line 1 of {path} does not say that its format is {FORMAT}")
        rows = tuple(_row(_object(line, number), number) for number, line in enumerate(lines[1:], start=2))
        if head.get("rows", len(rows)) != len(rows):
            raise TraceError(f"{path} is not whole: line 1 says {head['rows']!r} rows, there are {len(rows)}")
        return Trace(tuple(sorted(rows, key=lambda row: row.offset)))


def _line(row: TraceRow) -> bytes:
    """Values that are the default are left out: a field added later must not change the hash of older traces."""
    told = {f.name: value for f in fields(row) if (value := getattr(row, f.name)) != f.default}
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"line {number} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise TraceError(f"line {number} is not a JSON object")
    return value


def _row(data: dict[str, Any], number: int) -> TraceRow:
    known = TraceRow.__dataclass_fields__
    if unknown := data.keys() - known.keys():
        raise TraceError(f"line {number} has unknown keys: {', '.join(sorted(unknown))}")
    prompt = data.get("prompt")
    if isinstance(prompt, list):
        prompt = data["prompt"] = tuple(prompt)
    if not isinstance(prompt, str | tuple) or not prompt:
        raise TraceError(f"line {number} has no prompt")
    try:
        row = TraceRow(**data)
    except TypeError as error:
        raise TraceError(f"line {number}: {error}") from error
    _check(row, number)
    return row


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "ignore_eos": ((bool,), "true or false"),
    "tenant": ((str,), "a text"),
    "top_p": ((int, float, type(None)), "a number"),
    "top_k": ((int, type(None)), "a whole number"),
}


def _check(row: TraceRow, number: int) -> None:
    """Raises TraceError for values that no request can have."""
    numbers = {"offset": row.offset, "temperature": row.temperature, "cancel_after": row.cancel_after or 0.0}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise TraceError(f"line {number}: {name} must be a number of at least 0, got {value!r}")
    if type(row.max_tokens) is not int or row.max_tokens < 1:
        raise TraceError(f"line {number}: max_tokens must be a whole number of at least 1, got {row.max_tokens!r}")
    if type(row.seed) is not int or not -(2**63) <= row.seed < 2**63:
        raise TraceError(f"line {number}: seed must be a whole number of 64 bits, got {row.seed!r}")
    for name, (types, word) in _TYPES.items():
        if type(value := getattr(row, name)) not in types:
            raise TraceError(f"line {number}: {name} must be {word}, got {value!r}")
    if isinstance(row.prompt, tuple) and not all(type(token) is int and token >= 0 for token in row.prompt):
        raise TraceError(f"line {number}: prompt must be a text or a list of token ids of at least 0")
