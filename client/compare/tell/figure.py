"""What a plot of the report is, and what all of them are made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.compare.judge.findings import Findings
from client.compare.tell.rows import Group, Row


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, the part of the report it belongs to, what it is called and how it is read. No `svg`: no data for it."""

    part: str
    title: str
    sentence: str
    svg: str


def by_load(findings: Findings, row: Callable[[int, int], Row | None]) -> list[Group]:
    """A group a level, in it a row for each architecture (`row` gets its place and the level)."""
    places = range(len(findings.results.experiment.architectures))
    return [
        Group(load, tuple(made for i in places if (made := row(i, level)) is not None))
        for level, load in enumerate(findings.results.loads)
    ]
