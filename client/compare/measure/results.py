"""What a comparison measured, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from client.api import ModelCard
from client.compare.measure.accounts import Account
from client.compare.measure.quality import Quality
from client.compare.measure.searching import Tried
from client.compare.plan.experiment import Experiment
from client.compare.plan.schedule import Cell
from client.load.arrivals import describe
from client.load.record import Run

Place = tuple[int, int]  # (architecture, level)


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell, its run, and what the server's counters said of the time."""

    cell: Cell
    run: Run
    account: Account | None = None


@dataclass(slots=True)
class Results:
    """Everything measured so far; it grows cell by cell."""

    experiment: Experiment
    cards: tuple[ModelCard, ...]  # by architecture
    environment: dict[str, Any]
    measured: list[Measured] = field(default_factory=list)
    interrupted: bool = False
    resumed: int = 0  # cells that an earlier run had measured
    command: str = ""  # that all this came from
    gone: str = ""  # why it ended early: a server that nothing answers at any more
    tried: list[Tried] = field(default_factory=list)
    qualities: tuple[Quality | None, ...] = ()  # by architecture
    unscored: tuple[str, ...] = ()  # why there is no quality, by architecture; empty where there is, or was not asked
    capacities: tuple[int, ...] = ()  # tokens the cache holds, by architecture; 0 where not told

    @property
    def names(self) -> list[str]:
        """Names of the architectures, by place."""
        return [one.name for one in self.experiment.architectures]

    @property
    def loads(self) -> list[str]:
        """The levels in words."""
        return [describe(level) for level in self.experiment.levels]

    @property
    def asked(self) -> dict[int, str]:
        """Names of the architectures that are compared, by place: not of a control, which is one of them again."""
        return {i: name for i, name in enumerate(self.names) if i != self.experiment.control}

    def of(self, architecture: int, level: int) -> list[Measured]:
        """The runs of one architecture at one level, in the order of the rounds."""
        chosen = [m for m in self.measured if (m.cell.architecture, m.cell.level) == (architecture, level)]
        return sorted(chosen, key=lambda m: m.cell.repeat)
