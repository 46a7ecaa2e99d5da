"""A comparison as a file: every single record, and what was concluded from them. Versioned; read back to go on or to
compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import orjson

from client.api import ModelCard
from client.compare.judge.findings import QUANTILES, Findings, Percentile
from client.compare.measure.accounts import account_from_json
from client.compare.measure.quality import quality_from_json
from client.compare.measure.results import Measured, Results
from client.compare.measure.searching import Tried
from client.compare.plan.experiment import Experiment, from_text
from client.compare.plan.schedule import Cell
from client.compare.tell.cautions import cautions
from client.load import arrivals
from client.load.record import Run, record_from_json, record_to_json

SCHEMA = "dyno.compare/2"


class ResultsError(ValueError):
    """A file that holds no results of ours; the message says what is wrong with it."""


def document(findings: Findings) -> dict[str, Any]:
    """The whole comparison as JSON values; seconds throughout, null where there was nothing to measure."""
    results = findings.results
    experiment = results.experiment
    return {
        "schema": SCHEMA,
        "experiment": {
            "name": experiment.name,
            "architectures": [asdict(one) for one in experiment.architectures],
            "control": experiment.control,
            "levels": [arrivals.to_json(level) for level in experiment.levels],
            "repeats": experiment.repeats,
            "seed": experiment.seed,
            "fingerprint": experiment.fingerprint,
            "file": experiment.source,
            "path": experiment.path,
            "texts": experiment.texts,
            "hashes": dict(experiment.hashes),
        },
        "command": results.command,
        "environment": results.environment,
        "resumed": results.resumed,
        "models": [asdict(card) for card in results.cards],
        "capacities": list(results.capacities),
        "qualities": [one and asdict(one) for one in results.qualities],
        "unscored": list(results.unscored),
        "quality_differences": [
            {"text": one.name, "baseline": 0, "architectures": [apart and apart.to_json() for apart in one.apart]}
            for one in findings.stretches
            if any(one.apart)
        ],
        "quality_for_cost": [one.to_json() for one in findings.worths],
        "interrupted": results.interrupted,
        "gone": results.gone,
        "cautions": list(cautions(findings)),
        "summaries": [{**_place(place), **asdict(one)} for place, one in findings.summaries.items()],
        "percentiles": [{**_place(place), **_percentiles(one)} for place, one in findings.percentiles.items()],
        "drifts": [{**_place(place), **asdict(one)} for place, one in findings.drifts.items()],
        "differences": [
            {**_place(place), "baseline": 0, "metrics": [asdict(one) | {"verdict": one.verdict} for one in found]}
            for place, found in findings.differences.items()
        ],
        "because": [
            {**_place(place), "baseline": 0, **asdict(one)}
            for place, one in findings.because.items()
            if one is not None
        ],
        "tried": [asdict(one) for one in results.tried],
        "cells": [_cell(m) for m in results.measured],
    }


def _place(place: tuple[int, int]) -> dict[str, int]:
    return {"architecture": place[0], "level": place[1]}


def _percentiles(found: Mapping[str, tuple[Percentile, ...]]) -> dict[str, Any]:
    return {
        metric: {f"p{q * 100:g}": [_finite(one.value), _finite(one.interval.low), _finite(one.interval.high)]
                 for q, one in zip(QUANTILES, some, strict=True)}
        for metric, some in found.items()
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _cell(measured: Measured) -> dict[str, Any]:
    run = measured.run
    return {
        **asdict(measured.cell),
        "trace": run.trace_hash,
        "target": run.target,
        "model": run.model,
        "arrivals": arrivals.to_json(run.arrivals),
        "started": run.started,
        "seconds": run.seconds,
        "client_cpu_seconds": run.client_cpu,
        "client_held_up": run.held_up,
        "interrupted": run.interrupted,
        "salt": run.salt,
        "account": measured.account and measured.account.to_json(),
        "records": [record_to_json(record) for record in run.records],
    }


def read(path: Path, experiment: Experiment | None = None) -> Results:
    """The results of a file, of the experiment that is written in it unless one is given. Raises ResultsError and
    OSError, and ExperimentError where its experiment cannot be read any more."""
    try:
        data = orjson.loads(path.read_bytes())
        schema = data.get("schema")
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise ResultsError(f"{path} holds no results: {error}") from error
    if schema != SCHEMA:
        raise ResultsError(f"{path} has the schema {schema!r}; this version reads {SCHEMA}")
    try:
        return _results(data, experiment or _experiment(data["experiment"]))
    except (KeyError, TypeError) as error:
        raise ResultsError(f"{path} holds no whole results: {error!r}") from error


def _experiment(data: Mapping[str, Any]) -> Experiment:
    return from_text(data["file"], Path(data["path"]), data.get("texts"), data.get("hashes"))


def _results(data: Mapping[str, Any], experiment: Experiment) -> Results:
    return Results(
        experiment,
        cards=tuple(ModelCard(**card) for card in data["models"]),
        environment=data["environment"],
        measured=[_measured(cell) for cell in data["cells"]],
        interrupted=data["interrupted"],
        gone=data.get("gone", ""),
        resumed=data.get("resumed", 0),
        command=data.get("command", ""),
        tried=[Tried(**one | {"warnings": tuple(one.get("warnings", ()))}) for one in data["tried"]],
        qualities=tuple(None if one is None else quality_from_json(one) for one in data["qualities"]),
        unscored=tuple(data.get("unscored", ())),
        capacities=tuple(data["capacities"]),
    )


def _measured(data: Mapping[str, Any]) -> Measured:
    run = Run(
        target=data["target"],
        model=data["model"],
        arrivals=arrivals.from_json(data["arrivals"]),
        trace_hash=data["trace"],
        records=tuple(record_from_json(one) for one in data["records"]),
        seconds=data["seconds"],
        started=data["started"],
        client_cpu=data["client_cpu_seconds"],
        held_up=data.get("client_held_up", 0.0),
        interrupted=data["interrupted"],
        salt=data.get("salt", ""),
    )
    cell = Cell(data["repeat"], data["level"], data["architecture"])
    return Measured(cell, run, account_from_json(data["account"]))


def unused(folder: Path) -> None:
    """Raises ResultsError where a folder holds results already."""
    if (folder / "results.json").exists():
        raise ResultsError(f"{folder} holds results already: --resume goes on with them, --force writes over them")


def kept(path: Path) -> str:
    """How much of a comparison a file holds, in words."""
    try:
        return f"{path} holds {len(read(path).measured)} cells of it"
    except (ResultsError, OSError):
        return f"{path} holds nothing of it"


def resumable(path: Path, experiment: Experiment) -> Results | None:
    """What was measured of this very experiment before; None where there is no such file. A cell that was stopped
    half-way is measured again. Raises ResultsError where the file is another experiment's."""
    if not path.exists():
        return None
    found = read(path, experiment)
    told = orjson.loads(path.read_bytes())["experiment"]["fingerprint"]
    if told != experiment.fingerprint:
        raise ResultsError(
            f"{path} is of another experiment, or a file that it names has changed: "
            "give another folder, or the files as they were"
        )
    found.measured = [m for m in found.measured if not m.run.interrupted]
    found.interrupted, found.gone, found.resumed = False, "", len(found.measured)
    return found
