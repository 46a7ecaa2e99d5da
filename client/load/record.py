"""What is measured of one request and of one run. Times are seconds on one clock, 0 at the start of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.facts import Facts, facts_from_json, facts_to_json
from client.load.arrivals import Arrivals


@dataclass(frozen=True, slots=True)
class Record:
    """One request as the client saw it.

        intended          sent        arrivals[0] … arrivals[-1]   end
        |<---- lag ------>|
        |<-------- first_token ------>|
        |<------------------------- total ------------------------->|

    Latencies count from the intended send: a client that falls behind must not make the server look fast.
    """

    row: int  # of the trace
    intended: float
    sent: float
    arrivals: tuple[float, ...]  # of the pieces that brought tokens
    end: float
    facts: Facts | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def lag(self) -> float:
        return self.sent - self.intended

    @property
    def first_token(self) -> float | None:
        """None when no token came."""
        return self.arrivals[0] - self.intended if self.arrivals else None

    @property
    def total(self) -> float:
        return self.end - self.intended

    @property
    def per_token(self) -> float | None:
        """Mean time of a token after the first; None with fewer than two tokens."""
        later = self.completion_tokens - 1
        return (self.arrivals[-1] - self.arrivals[0]) / later if self.arrivals and later > 0 else None

    @property
    def prompt_tokens(self) -> int:
        return self.facts.usage.prompt_tokens if self.facts is not None else 0

    @property
    def completion_tokens(self) -> int:
        return self.facts.usage.completion_tokens if self.facts is not None else 0


@dataclass(frozen=True, slots=True)
class Run:
    """One trace sent once. `records` are in the order of the rows; rows that were never sent have none."""

    target: str
    model: str
    arrivals: Arrivals
    trace_hash: str
    records: tuple[Record, ...]
    seconds: float  # first intended send to last end
    started: str  # ISO 8601, UTC
    client_cpu: float  # CPU seconds of the client's whole process
    interrupted: bool  # stopped by hand before every row was answered


def record_to_json(record: Record) -> dict[str, Any]:
    """The record as JSON values, times to the microsecond; `record_from_json` reads it."""
    return {
        "row": record.row,
        "intended": round(record.intended, 6),
        "sent": round(record.sent, 6),
        "arrivals": [round(t, 6) for t in record.arrivals],
        "end": round(record.end, 6),
        "facts": None if record.facts is None else facts_to_json(record.facts),
        "error": record.error,
    }


def record_from_json(data: Mapping[str, Any]) -> Record:
    """What `record_to_json` wrote. Raises KeyError where it is not one."""
    facts = None if data["facts"] is None else facts_from_json(data["facts"])
    copied = {name: data[name] for name in ("row", "intended", "sent", "end", "error")}
    return Record(arrivals=tuple(data["arrivals"]), facts=facts, **copied)


def warnings(run: Run) -> tuple[str, ...]:
    """What a reader must know before believing the run; empty when all is well."""
    found = []
    lags = sorted(r.lag for r in run.records)
    firsts = sorted(r.first_token for r in run.records if r.first_token is not None)
    if run.interrupted:
        found.append("the run was stopped before every request was answered")
    if firsts and lags[int(0.99 * (len(lags) - 1))] > max(0.002, 0.01 * firsts[len(firsts) // 2]):
        found.append("the client sent late (99th percentile of the lag above 2 ms and 1 % of the time to first token)")
    if run.seconds > 1 and run.client_cpu > 0.9 * run.seconds:
        found.append("the client used a whole core: it, not the server, may have set the pace")
    return tuple(found)
