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
    arrivals: tuple[float, ...]  # of each token; those that came in one piece came at the same instant
    end: float
    facts: Facts | None = None
    error: str = ""
    cancelled: bool = False  # the user of the trace left before the end
    answer: str = ""  # "i" and a short hash of the token ids, or "t" and one of the text where no ids were told
    may_leave: bool = False  # the trace said when its user leaves, had it not been answered by then
    id: str = ""  # the server's, as its request log, traces and exemplars have it; empty when nothing came

    @property
    def ok(self) -> bool:
        return not self.error and not self.cancelled

    @property
    def lag(self) -> float:
        return self.sent - self.intended

    @property
    def first_token(self) -> float | None:
        """Seconds until the first token; None when none came."""
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
    def tokens(self) -> int:
        """How many tokens came: of a whole answer all, else those that its user saw before leaving."""
        return self.completion_tokens if self.facts is not None else len(self.arrivals)

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
    salt: str = ""  # what was put before the prompts of the trace
    held_up: float = 0.0  # how late the client itself came to its turn, 99th percentile of all moments


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
        "answer": record.answer,
        "cancelled": record.cancelled,
        "may_leave": record.may_leave,
        "id": record.id,
    }


def record_from_json(data: Mapping[str, Any]) -> Record:
    """What `record_to_json` wrote. Raises KeyError where it is not one."""
    facts = None if data["facts"] is None else facts_from_json(data["facts"])
    copied = {name: data[name] for name in ("row", "intended", "sent", "end", "error")}
    later = {name: data[name] for name in ("answer", "cancelled", "may_leave", "id") if name in data}
    return Record(arrivals=tuple(data["arrivals"]), facts=facts, **later, **copied)
