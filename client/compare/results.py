"""What a comparison measured, and what follows from it: pure functions over cells, and the JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from client.api import ModelCard
from client.compare.experiment import SURE_ROUNDS, Experiment
from client.compare.paired import METRICS, Difference, compare, corrected, pair
from client.compare.schedule import Cell
from client.load.arrivals import describe
from client.load.judgement import warnings
from client.load.record import Record, Run, record_to_json
from client.load.statistics import Summary, summarise

SCHEMA = "dyno.compare/1"


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell and its run."""

    cell: Cell
    run: Run


@dataclass(slots=True)
class Results:
    """Everything measured so far; it grows cell by cell."""

    experiment: Experiment
    cards: tuple[ModelCard, ...]  # by architecture
    environment: dict[str, Any]
    measured: list[Measured] = field(default_factory=list)
    interrupted: bool = False

    def of(self, architecture: int, level: int) -> list[Measured]:
        """The runs of one architecture at one level, in the order of the rounds."""
        chosen = [m for m in self.measured if (m.cell.architecture, m.cell.level) == (architecture, level)]
        return sorted(chosen, key=lambda m: m.cell.repeat)


@dataclass(frozen=True, slots=True)
class Findings:
    """What follows from results, worked out once. Keys are (architecture, level)."""

    results: Results
    summaries: dict[tuple[int, int], Summary]
    differences: dict[tuple[int, int], tuple[Difference, ...]]  # against the baseline, one a metric


def conclude(results: Results) -> Findings:
    """Every summary, and every architecture against the first."""
    experiment = results.experiment
    grid = [(a, level) for level in range(len(experiment.levels)) for a in range(len(experiment.architectures))]
    summaries = {place: _summary(results, *place) for place in grid}
    return Findings(results, summaries, _corrected({p: _differences(results, *p) for p in grid if p[0] > 0}))


def _corrected(found: dict[tuple[int, int], tuple[Difference, ...]]) -> dict[tuple[int, int], tuple[Difference, ...]]:
    """Every comparison of the report counts in the correction."""
    flat = corrected([one for some in found.values() for one in some])
    each = iter(flat)
    return {place: tuple(next(each) for _ in some) for place, some in found.items()}


def _summary(results: Results, architecture: int, level: int) -> Summary:
    """All rounds taken together."""
    runs = [m.run for m in results.of(architecture, level)]
    records = [record for run in runs for record in run.records]
    return summarise(records, sum(run.seconds for run in runs), results.experiment.objective)


def _differences(results: Results, architecture: int, level: int) -> tuple[Difference, ...]:
    sides = _rounds(results, 0, level), _rounds(results, architecture, level)
    both = sorted(sides[0].keys() & sides[1].keys())
    seed = results.experiment.seed
    return tuple(compare(m, [pair(m, sides[0][r], sides[1][r]) for r in both], seed) for m in METRICS)


def _rounds(results: Results, architecture: int, level: int) -> dict[int, Sequence[Record]]:
    return {m.cell.repeat: m.run.records for m in results.of(architecture, level)}


def cautions(results: Results) -> tuple[str, ...]:
    """What a reader must know before believing the numbers, each said once."""
    names = [architecture.name for architecture in results.experiment.architectures]
    said = [f"{names[m.cell.architecture]}: {w}" for m in results.measured for w in warnings(m.run)]
    if results.interrupted:
        said.append("the comparison was stopped early: some cells are missing or shorter than planned")
    if results.experiment.repeats < SURE_ROUNDS:
        said.append(f"{results.experiment.repeats} rounds: a verdict needs {SURE_ROUNDS}, with fewer it only leans")
    return tuple(dict.fromkeys(said))


def document(findings: Findings) -> dict[str, Any]:
    """The whole comparison as JSON values: every record, and what was concluded from them."""
    results = findings.results
    experiment = results.experiment
    return {
        "schema": SCHEMA,
        "experiment": asdict(experiment) | {"levels": [describe(level) for level in experiment.levels]},
        "environment": results.environment,
        "models": [asdict(card) for card in results.cards],
        "interrupted": results.interrupted,
        "cautions": list(cautions(results)),
        "summaries": [{**_place(place), **asdict(one)} for place, one in findings.summaries.items()],
        "differences": [
            {**_place(place), "baseline": 0, "metrics": [asdict(one) | {"verdict": one.verdict} for one in found]}
            for place, found in findings.differences.items()
        ],
        "cells": [_cell(m) for m in results.measured],
    }


def _place(place: tuple[int, int]) -> dict[str, int]:
    return {"architecture": place[0], "level": place[1]}


def _cell(measured: Measured) -> dict[str, Any]:
    run = measured.run
    return {
        **asdict(measured.cell),
        "trace": run.trace_hash,
        "target": run.target,
        "model": run.model,
        "started": run.started,
        "seconds": run.seconds,
        "client_cpu_seconds": run.client_cpu,
        "interrupted": run.interrupted,
        "records": [record_to_json(record) for record in run.records],
    }
