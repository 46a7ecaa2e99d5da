"""Records and results made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.api import ModelCard
from client.compare.measure.results import Measured, Results
from client.compare.plan.experiment import Architecture, Experiment
from client.compare.plan.schedule import Cell
from client.facts import facts_from_json
from client.load.arrivals import Closed, Poisson
from client.load.record import Record, Run
from client.load.workload import Workload
from tests.client.answers import CARD, facts

TOLD = facts_from_json(facts(prompt_tokens=8, completion_tokens=3))


def record(row: int, first: float, gap: float = 0.01, error: str = "") -> Record:
    """A request with three tokens, the first after `first` seconds."""
    arrivals = (first, first + gap, first + 2 * gap)
    return Record(row, 0.0, 0.0, arrivals, arrivals[-1], None if error else TOLD, error)


def run(records: Sequence[Record], model: str = "m") -> Run:
    return Run("http://x", model, Poisson(2.0), "hash", tuple(records), 6.0, "2026-01-01", 0.1, False)


def experiment(names: Sequence[str] = ("plain", "other"), repeats: int = 5) -> Experiment:
    return Experiment(
        name="an experiment",
        architectures=tuple(Architecture(name, target="http://x", model=name) for name in names),
        workload=Workload(requests=4, output_tokens=3),
        levels=(Poisson(2.0),),
        requests=(4,),
        repeats=repeats,
    )


def results(firsts: Sequence[float] = (0.1, 0.2), repeats: int = 5) -> Results:
    """Each architecture's first tokens come after its number of seconds, a little more in later rows."""
    names = [f"arch{i}" for i in range(len(firsts))]
    made = Results(experiment(names, repeats), tuple(ModelCard(name, **CARD) for name in names), {"cores": 2})
    for repeat in range(repeats):
        for i, first in enumerate(firsts):
            rows = [record(row, first * (1 + row / 100)) for row in range(4)]
            made.measured.append(Measured(Cell(repeat, 0, i), run(rows, names[i])))
    return made


def closed(made: Results) -> Results:
    """The same, with two at a time."""
    made.experiment = replace(made.experiment, levels=(Closed(2),))
    made.measured = [replace(m, run=replace(m.run, arrivals=Closed(2))) for m in made.measured]
    return made
