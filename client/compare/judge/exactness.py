"""How many answers were the same on two architectures, token for token. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from client.compare.measure.results import Results
from client.load.record import Record


def identical(results: Results, architecture: int, level: int) -> tuple[int, int]:
    """How many answers are the same, and of how many: the rows that this architecture and the first both answered in a
    way that can be compared, to the same prompts, and both by token ids or both by text."""
    baseline = {m.cell.repeat: m for m in results.of(0, level)}
    pairs = [
        (here.answer, there.answer)
        for m in results.of(architecture, level)
        if (base := baseline.get(m.cell.repeat)) and base.run.salt == m.run.salt
        for here, there in _rows(m.run.records, base.run.records)
    ]
    told = [(here, there) for here, there in pairs if here and here[0] == there[:1]]
    return sum(here == there for here, there in told), len(told)


def _rows(one: Sequence[Record], other: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Pairs of the rows of one trace that both answered."""
    answered = {r.row: r for r in other if r.ok}
    return ((r, answered[r.row]) for r in one if r.ok and r.row in answered)
