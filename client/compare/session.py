"""A comparison from the command line: progress on one screen, the report on another and in a folder."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from client import interrupts
from client.compare import report
from client.compare.bench import Watcher, measure
from client.compare.experiment import Architecture, Experiment
from client.compare.results import Findings, Results, conclude
from client.compare.schedule import Cell
from client.load.arrivals import describe
from client.load.record import Record
from client.load.session import progress


def run_and_report(experiment: Experiment, folder: Path, status: Console, console: Console) -> Findings:
    """Measure, keep every finished round in `folder`, and print the findings. Ctrl-C keeps what there is.

    Raises ClientError, WorkloadError, Interrupted before anything was measured, and OSError when the folder cannot be
    written.
    """
    folder.mkdir(parents=True, exist_ok=True)  # better now than after an hour
    with progress(status) as bar:
        watcher = Screen(experiment, bar, folder)
        results = interrupts.run(measure(experiment, stopping=interrupts.gently, watcher=watcher))
    findings = conclude(results)
    report.write(findings, folder)
    console.print(report.view(findings))
    console.print(f"written: {folder / 'report.html'}, {folder / 'results.json'}", style="dim", soft_wrap=True)
    return findings


class Screen(Watcher):
    """The progress bar; with a folder, it also keeps the results of every finished round there."""

    def __init__(self, experiment: Experiment, bar: Progress, folder: Path | None = None) -> None:
        self._experiment = experiment
        self._bar = bar
        self._folder = folder
        self._task: TaskID = bar.add_task("starting", total=None, errors="")
        self._failed = 0

    def starting(self, architecture: Architecture) -> None:
        self._bar.update(self._task, description=f"starting {architecture.name}")

    def planned(self, requests: int) -> None:
        self._bar.update(self._task, total=requests)

    def measuring(self, architecture: Architecture, cell: Cell) -> None:
        load = describe(self._experiment.levels[cell.level])
        said = f"round {cell.repeat + 1} of {self._experiment.repeats}: {architecture.name}, {load}"
        self._bar.update(self._task, description=said)

    def answered(self, record: Record) -> None:
        self._failed += not record.ok
        self._bar.update(self._task, advance=1, errors=f"{self._failed} failed" if self._failed else "")

    def measured(self, results: Results) -> None:
        a_round = len(self._experiment.levels) * len(self._experiment.architectures)
        if self._folder is not None and len(results.measured) % a_round == 0:
            report.write(conclude(results), self._folder)
