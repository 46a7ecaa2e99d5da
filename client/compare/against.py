"""Two results of the same experiment at different times: has anything become slower? For a gate in CI.

Rounds of the two are paired where they sent the very same trace. They were not interleaved, so a machine that was
slower on one of the days looks like a regression: the tolerance is for that.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.compare.experiment import SURE_ROUNDS
from client.compare.paired import Difference, corrected
from client.compare.results import Measured, Results, paired_rounds
from client.compare.tables import Grid, difference_row
from client.load.arrivals import Arrivals, describe
from client.load.record import Record

TOLERANCE = 0.05


class NothingToCompare(ValueError):
    """The two results have no cell in common; the message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one time of one architecture at one load."""

    architecture: str
    load: str
    difference: Difference

    def regressed(self, tolerance: float) -> bool:
        """Shown to be slower, and by more than the tolerance."""
        return self.difference.verdict == "slower" and self.difference.ratio > 1 + tolerance


def changes(old: Results, new: Results) -> tuple[Change, ...]:
    """Every architecture and load that both have, by name. Raises NothingToCompare."""
    before, after = _cells(old), _cells(new)
    both = [key for key in after if key in before and _same(before[key], after[key])]
    if not both:
        raise NothingToCompare(
            "the two results share no architecture, load and trace: were they of the same experiment?"
        )
    found = [(key, one) for key in both for one in _differences(before[key], after[key], new.experiment.seed)]
    return tuple(
        Change(key[0], describe(key[1]), one)
        for (key, _), one in zip(found, corrected([one for _, one in found]), strict=True)
    )


_Rounds = dict[int, Measured]


def _cells(results: Results) -> dict[tuple[str, Arrivals], _Rounds]:
    names = [one.name for one in results.experiment.architectures]
    found: dict[tuple[str, Arrivals], _Rounds] = {}
    for m in results.measured:
        found.setdefault((names[m.cell.architecture], m.run.arrivals), {})[m.cell.repeat] = m
    return found


def _same(before: _Rounds, after: _Rounds) -> list[int]:
    """Rounds of the same trace."""
    return [r for r in after if r in before and after[r].run.trace_hash == before[r].run.trace_hash]


def _differences(before: _Rounds, after: _Rounds, seed: int) -> tuple[Difference, ...]:
    rounds = _same(before, after)

    def records(side: _Rounds) -> dict[int, tuple[Record, ...]]:
        return {r: side[r].run.records for r in rounds}

    return paired_rounds(records(before), records(after), seed)


def grid(found: tuple[Change, ...], tolerance: float) -> Grid:
    """All changes as a table."""
    heads = ("", "time", "difference, ms", "ratio", "p, corrected", "could have seen", "verdict")
    rows = tuple(_row(one, tolerance) for one in found)
    return Grid(
        f"New against old, request by request; slower by more than {tolerance:.0%} is a regression", heads, rows
    )


def _row(one: Change, tolerance: float) -> tuple[str, ...]:
    name, *cells, verdict = difference_row(f"{one.architecture}, {one.load}", one.difference)
    return (name, *cells, "REGRESSION" if one.regressed(tolerance) else verdict)


def few_rounds(found: tuple[Change, ...]) -> bool:
    """Whether the gate cannot fail, because a verdict needs more rounds."""
    return all(one.difference.rounds < SURE_ROUNDS for one in found)
