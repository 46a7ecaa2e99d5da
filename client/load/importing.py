"""Traces that others have published, as ours. The formats hold arrivals and lengths and, but for ShareGPT, no text.

mooncake   JSON lines: timestamp (ms), input_length, output_length, hash_ids (one for each block of 512 prompt tokens;
           blocks with the same id hold the same tokens, arXiv:2407.00079)
azure      CSV: TIMESTAMP (date and time), ContextTokens, GeneratedTokens (arXiv:2311.18677)
burstgpt   CSV: Timestamp (seconds), Model, Request tokens, Response tokens, … (arXiv:2401.17644)
sharegpt   a JSON list of {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}; it has no
           arrivals: they are drawn for the rows that are taken
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from client.load.arrivals import Drawn, Poisson, offsets
from client.load.trace import Trace, TraceError, TraceRow

MOONCAKE_BLOCK = 512
_CHARACTERS = 4  # a token


class Format(StrEnum):
    """What can be read."""

    MOONCAKE = "mooncake"
    AZURE = "azure"
    BURSTGPT = "burstgpt"
    SHAREGPT = "sharegpt"


@dataclass(frozen=True, slots=True)
class Shaping:
    """How a trace of large servers is made to fit a small one.

    Lengths are divided by `shorter`, instants by `faster`; prompts are token ids below `vocab`; at most `requests` rows
    are taken, and of those none whose prompt and answer together are longer than `context`.
    """

    vocab: int
    requests: int | None = None
    context: int | None = None
    shorter: float = 1.0
    faster: float = 1.0
    arrivals: Drawn = Poisson(1.0)  # for formats without instants
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab", "shorter", "faster"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def length(self, tokens: float) -> int:
        return max(1, round(tokens / self.shorter))


def read(form: Format, path: Path, shaping: Shaping) -> Trace:
    """Rows from 0 s on, in order. Raises TraceError with the line, and OSError."""
    try:
        rows = list(islice(_fitting(_READERS[form](path, shaping), shaping), shaping.requests))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} is not a {form} trace: {error}") from error
    if not rows:
        raise TraceError(f"{path} holds no request that fits")
    if form is Format.SHAREGPT:
        rows = list(Trace(tuple(rows)).timed(offsets(shaping.arrivals, len(rows), shaping.seed)).rows)
    rows.sort(key=lambda row: row.offset)
    zero = rows[0].offset
    return Trace(
        tuple(replace(row, offset=round((row.offset - zero) / shaping.faster, 6), seed=i) for i, row in enumerate(rows))
    )


def _fitting(rows: Iterator[TraceRow], shaping: Shaping) -> Iterator[TraceRow]:
    for row in rows:
        tokens = len(row.prompt) if isinstance(row.prompt, tuple) else _words_as_tokens(row.prompt)
        if shaping.context is None or tokens + row.max_tokens <= shaping.context:
            yield row


def _words_as_tokens(text: str) -> int:
    """A usual guess where there is no tokenizer."""
    return -(-len(text) // _CHARACTERS)


def _mooncake(path: Path, shaping: Shaping) -> Iterator[TraceRow]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        data = _json(line, f"line {number} of {path}")
        with _Line(path, number):
            blocks = [_block(int(name), shaping) for name in data["hash_ids"]]
            length = shaping.length(data["input_length"])
            ids = [token for block in blocks for token in block][:length]
            ids += _random((shaping.seed, 1, number), length - len(ids), shaping.vocab)
            yield TraceRow(data["timestamp"] / 1e3, tuple(ids), shaping.length(data["output_length"]))


def _block(name: int, shaping: Shaping) -> list[int]:
    return _random((shaping.seed, 0, name), shaping.length(MOONCAKE_BLOCK), shaping.vocab)


def _random(seed: tuple[int, ...], count: int, vocab: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(0, vocab, max(0, count)).tolist()
    return drawn


def _table(
    time: Callable[[str], float], columns: tuple[str, str, str]
) -> Callable[[Path, Shaping], Iterator[TraceRow]]:
    """A reader of a CSV file with an instant, a prompt's and an answer's length in these columns."""

    def rows(path: Path, shaping: Shaping) -> Iterator[TraceRow]:
        with path.open(newline="") as file:
            table = csv.DictReader(file)
            if missing := [name for name in columns if name not in (table.fieldnames or ())]:
                raise TraceError(f"{path} has no column {missing[0]!r}")
            for row in table:
                with _Line(path, table.line_num):
                    at, prompt, answer = (row[name] for name in columns)
                    if int(float(answer)) < 1 or int(float(prompt)) < 1:
                        continue  # requests that failed there
                    length = shaping.length(float(prompt))
                    ids = tuple(_random((shaping.seed, 1, table.line_num), length, shaping.vocab))
                    yield TraceRow(time(at), ids, shaping.length(float(answer)))

    return rows


def _moment(text: str) -> float:
    """Date and time, with more digits of a second than Python takes."""
    whole, _, rest = text.strip().partition(".")
    digits = "".join(c for c in rest if c.isdigit())
    return datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + (float(f"0.{digits}") if digits else 0.0)


def _sharegpt(path: Path, shaping: Shaping) -> Iterator[TraceRow]:
    data = _json(path.read_bytes(), str(path))
    for question, answer in (pair for one in data if (pair := _first_exchange(one, path))):
        yield TraceRow(0.0, _cut(question, shaping), shaping.length(_words_as_tokens(answer)))


def _cut(text: str, shaping: Shaping) -> str:
    """The beginning of a text, to the last word that is whole; a text that is not to be shorter as it is."""
    characters = _CHARACTERS * shaping.length(_words_as_tokens(text))
    if len(text) <= characters:
        return text
    begins = text.lstrip()[: characters + 1]
    whole, space, _ = begins.rpartition(" ")
    return whole if space else begins[:characters]


def _first_exchange(one: Mapping[str, Any], path: Path) -> tuple[str, str] | None:
    """The first words of a person and what was answered; None where the conversation has no such pair."""
    try:
        turns = [(turn["from"], turn["value"]) for turn in one["conversations"]]
    except (KeyError, TypeError) as error:
        raise TraceError(f"{path} is not a ShareGPT file: a conversation lacks {error}") from error
    if len(turns) < 2 or turns[0][0] not in ("human", "user"):
        return None
    question, answer = turns[0][1], turns[1][1]
    return (question, answer) if question and question.strip() and answer else None


class _Line:
    """Whatever is wrong with a line is told with its number."""

    def __init__(self, path: Path, number: int) -> None:
        self._place = f"line {number} of {path}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError):
            raise TraceError(f"{self._place} has no {error}") from error
        if isinstance(error, TypeError | ValueError) and not isinstance(error, TraceError):
            raise TraceError(f"{self._place}: {error}") from error


def _json(raw: bytes, place: str) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"{place} is not JSON: {error}") from error


_READERS: dict[Format, Callable[[Path, Shaping], Iterator[TraceRow]]] = {
    Format.MOONCAKE: _mooncake,
    Format.AZURE: _table(_moment, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")),
    Format.BURSTGPT: _table(float, ("Timestamp", "Request tokens", "Response tokens")),
    Format.SHAREGPT: _sharegpt,
}
