"""Requests that failed: how many, of what, and which architectures are out of the comparison for it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from client.compare.measure.results import Results
from client.load.record import Record

_TEXTS = 2  # of the commonest errors


@dataclass(frozen=True, slots=True)
class Loss:
    """How many requests failed, of one place or of several; `errors` the commonest first."""

    sent: int
    failed: int
    errors: tuple[tuple[str, int], ...]

    @property
    def mostly(self) -> bool:
        """Whether more than half failed."""
        return 2 * self.failed > self.sent

    def __str__(self) -> str:
        texts = ", ".join(f"{count} × {text!r}" for text, count in self.errors[:_TEXTS])
        return f"{self.failed} of {self.sent} requests failed ({texts}{', …' if len(self.errors) > _TEXTS else ''})"


def loss(records: Iterable[Record]) -> Loss:
    """How many of these requests failed, and of what."""
    records = list(records)
    errors = Counter(r.error for r in records if r.error)
    return Loss(len(records), errors.total(), tuple(errors.most_common()))


def of_places(results: Results) -> tuple[str, ...]:
    """A sentence for each architecture and load with requests that failed."""
    said = []
    for i, name in enumerate(results.names):
        for level, load in enumerate(results.loads):
            found = loss(r for m in results.of(i, level) for r in m.run.records)
            if found.failed:
                said.append(f"{name} at {load}: {found}")
    return tuple(said)


def mostly_failed(results: Results) -> tuple[str, ...]:
    """Names of the architectures of which more than half of all requests failed."""
    failed = []
    for i, name in enumerate(results.names):
        if loss(r for m in results.measured if m.cell.architecture == i for r in m.run.records).mostly:
            failed.append(name)
    return tuple(failed)
