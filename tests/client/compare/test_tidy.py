"""What is written for other programs can be read by them."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from client.compare.judge.findings import conclude
from client.compare.measure.accounts import Account
from client.compare.measure.quality import Band, Quality
from client.compare.measure.results import Results
from client.compare.measure.searching import Tried
from client.compare.plan.schedule import Cell
from client.compare.tell.tables import difference_grid
from client.compare.tell.tidy import comma_separated
from client.load.arrivals import Poisson
from client.load.statistics import Objective
from tests.client.compare.factories import results

ACCOUNT = Account(100, 500.0, 1e12, 2e12, 4.0, 1.0, 800, 2)
LOAD = "2/s, Poisson"


def whole(repeats: int = 5) -> Results:
    """Everything that may be told, of two architectures."""
    made = results((0.1, 0.2), repeats)
    made.experiment = replace(made.experiment, objective=Objective(first_token=0.15))
    made.measured = [replace(m, account=ACCOUNT) for m in made.measured]
    made.qualities = (Quality(1.467, 1000, 12, (Band(1, 128, 1.5),)), None)
    made.capacities = (100_000, 0)
    made.tried = [Tried(0, 4.0, 1.0, True), Tried(0, 8.0, 0.1, False), Tried(1, 2.0, 1.0, True)]
    return made


def read(made: Results) -> dict[tuple[str, ...], dict[str, str]]:
    """By level, architecture, metric and statistic; each is there once."""
    lines = list(csv.DictReader(comma_separated(conclude(made)).splitlines()))
    by = {tuple(line[key] for key in ("level", "architecture", "metric", "statistic")): line for line in lines}
    assert len(by) == len(lines)
    return by


def test_every_value_is_a_plain_number_with_a_unit() -> None:
    for line in read(whole()).values():
        float(line["value"])
        assert line["unit"]
        assert all(line[end] == "" or float(line[end]) is not None for end in ("low", "high"))


@pytest.mark.parametrize(
    ("key", "value", "unit"),
    [
        (("", "arch0", "parameters", "total"), 2_000_000, "parameters"),
        (("", "arch0", "cache", "capacity"), 100_000, "tokens"),
        (("", "arch1", "cache", "held by a request at its peak"), 4096, "bytes"),
        (("", "arch0", "bits per byte", "whole passages"), 1.467, "bits/byte"),
        (("", "arch0", "bits per byte", "tokens 1 to 128"), 1.5, "bits/byte"),
        (("", "arch0", "highest rate", "within the objective"), 4.0, "1/s"),
        ((LOAD, "arch0", "requests", "answered"), 20, "requests"),
        ((LOAD, "arch0", "goodput", "rate"), 2 / 3, "1/s"),
        ((LOAD, "arch0", "goodput", "share"), 1.0, "1"),
        ((LOAD, "arch1", "first_token", "p50"), 0.203, "s"),
        ((LOAD, "arch1", "model time", "measured"), 20.0, "s"),
        ((LOAD, "arch1", "model time", "share of the roofline"), 0.25, "1"),
        ((LOAD, "arch1", "operations", "per token"), 2e9, "FLOP"),
        ((LOAD, "arch1", "first_token", "difference"), 0.1015, "s"),
        ((LOAD, "arch1", "first_token", "ratio"), 2.0, "1"),
        ((LOAD, "arch1", "first_token", "pairs"), 20, "requests"),
        ((LOAD, "arch1", "total_p95", "rounds"), 5, "rounds"),
    ],
)
def test_numbers_are_in_base_units(key: tuple[str, ...], value: float, unit: str) -> None:
    line = read(whole())[key]
    assert (float(line["value"]), line["unit"]) == (pytest.approx(value), unit)


def test_intervals_have_ends_of_their_own() -> None:
    told = read(whole())
    line = told[LOAD, "arch1", "first_token", "p50"]
    assert float(line["low"]) <= float(line["value"]) <= float(line["high"])
    assert told["", "arch0", "highest rate", "within the objective"]["high"] == "8"
    assert told["", "arch1", "highest rate", "within the objective"]["high"] == "inf"
    assert told[LOAD, "arch1", "requests", "answered"]["low"] == ""


def test_a_difference_names_its_baseline_and_its_verdict() -> None:
    line = read(whole())[LOAD, "arch1", "first_token", "ratio"]
    assert (line["against"], line["verdict"]) == ("arch0", "slower")


def test_what_was_not_measured_has_no_line() -> None:
    made = whole()
    made.measured = []
    told = read(made)
    assert (LOAD, "arch1", "first_token", "p50") not in told
    assert ("", "arch1", "cache", "capacity") not in told
    assert told[LOAD, "arch1", "requests", "sent"]["value"] == "0"


def test_levels_are_kept_apart() -> None:
    made = whole()
    made.experiment = replace(made.experiment, levels=(Poisson(2.0), Poisson(4.0)))
    made.measured += [replace(m, cell=Cell(m.cell.repeat, 1, m.cell.architecture)) for m in made.measured]
    assert {key[0] for key in read(made)} == {"", "2/s, Poisson", "4/s, Poisson"}
    titles = [difference_grid(conclude(made), level).title for level in (0, 1)]
    assert titles[0].startswith("Against arch0 at 2/s, Poisson:") and titles[1].startswith("Against arch0 at 4/s")
