"""What a plot of the report is, and what all of them are made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.compare.results import Findings, Results
from client.compare.rows import Group, Row
from client.load.arrivals import describe


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, the part of the report it belongs to, what it is called and how it is read. No `svg`: no data for it."""

    part: str
    title: str
    sentence: str
    svg: str


def names(results: Results) -> list[str]:
    """Of the architectures, by place."""
    return [one.name for one in results.experiment.architectures]


def loads(results: Results) -> list[str]:
    """The levels in words."""
    return [describe(level) for level in results.experiment.levels]


def by_load(findings: Findings, row: Callable[[int, int], Row | None]) -> list[Group]:
    """A group a level, in it a row for each architecture (`row` gets its place and the level)."""
    places = range(len(findings.results.experiment.architectures))
    return [
        Group(load, tuple(made for i in places if (made := row(i, level)) is not None))
        for level, load in enumerate(loads(findings.results))
    ]
