"""A comparison from the command line: progress on one screen, the report on another and in a folder."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import Progress, TaskID

from client import interrupts
from client.compare.judge.findings import Findings, conclude
from client.compare.measure.bench import Watcher, measure
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture, Experiment
from client.compare.plan.schedule import Cell
from client.compare.tell import report
from client.compare.tell.document import resumable, unused
from client.load.arrivals import describe
from client.load.record import Record
from client.load.session import progress


def measured(
    experiment: Experiment, folder: Path, status: Console, *, resume: bool = False, force: bool = False
) -> Findings:
    """Measure and conclude, keeping every finished round in `folder`; the last word there is the caller's. Ctrl-C keeps
    what there is; with `resume` the cells that are in the folder already are not measured again, with `force` they are
    written over.

    Raises ClientError, WorkloadError, TraceError, Interrupted before anything was measured, ResultsError when the
    folder holds results that can neither be gone on with nor written over, and OSError when it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)  # better now than after an hour
    if not (resume or force):
        unused(folder)
    before = resumable(folder / "results.json", experiment) if resume else None
    with progress(status) as bar:
        watcher = Screen(experiment, bar, folder)
        main = measure(experiment, stopping=interrupts.gently, watcher=watcher, before=before)
        return conclude(interrupts.run(main))


class Screen(Watcher):
    """The progress bar, or where there is no terminal to draw it on a line a round and a rate tried; with a folder, it
    also keeps the results of every finished round there."""

    def __init__(self, experiment: Experiment, bar: Progress, folder: Path | None = None) -> None:
        self._experiment = experiment
        self._bar = bar
        self._folder = folder
        self._task: TaskID = bar.add_task("starting", total=None, errors="")
        self._failed = 0
        self._rounds: list[tuple[int, float, int]] = []  # that began: which, when, and after how many cells
        self._cells = 0  # that began
        self._full = False  # the disk, or whatever keeps the folder from being written

    def starting(self, architecture: Architecture) -> None:
        self._bar.update(self._task, description=f"starting {architecture.name}")

    def planned(self, requests: int) -> None:
        self._bar.update(self._task, total=requests)

    def measuring(self, architecture: Architecture, cell: Cell) -> None:
        load = describe(self._experiment.levels[cell.level])
        begins = not self._rounds or self._rounds[-1][0] != cell.repeat
        if begins:
            self._rounds.append((cell.repeat, monotonic(), self._cells))
        self._cells += 1
        said = f"round {cell.repeat + 1} of {self._experiment.repeats}{self._left()}"
        self._bar.update(self._task, description=f"{said}: {architecture.name}, {load}")
        if begins:
            self._line(said)

    def searching(self, architecture: Architecture, rate: float, requests: int) -> None:
        total = self._bar.tasks[self._task].total or 0
        said = f"searching: {architecture.name} at {rate:.3g} requests/s"
        self._bar.update(self._task, description=said, total=total + requests)
        self._line(said)

    def answered(self, record: Record) -> None:
        self._failed += bool(record.error)
        self._bar.update(self._task, advance=1, errors=f"{self._failed} failed" if self._failed else "")

    def measured(self, results: Results) -> None:
        a_round = len(self._experiment.levels) * len(self._experiment.architectures)
        if self._folder is None or len(results.measured) % a_round != 0:
            return
        try:
            report.write(conclude(results), self._folder)
        except OSError as error:  # the measurement goes on: there may be room again at its end
            if not self._full:
                self._bar.console.print(f"this round is not on disk: {error}", style="yellow", markup=False)
            self._full = True

    def _left(self) -> str:
        """How long the rounds left take if their cells are like those before; not known in the first."""
        (first, began, _), (now, begins, cells) = self._rounds[0], self._rounds[-1]
        if now == first:
            return ""
        a_round = len(self._experiment.levels) * len(self._experiment.architectures)
        seconds = (begins - began) / cells * a_round * (self._experiment.repeats - now)
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"

    def _line(self, begins: str) -> None:
        if self._bar.console.is_terminal:
            return
        task = self._bar.tasks[self._task]
        failed = f", {self._failed} failed" if self._failed else ""
        said = f"{begins}; {task.completed:.0f} requests answered{failed}, {task.elapsed or 0.0:.0f} s"
        self._bar.console.print(said, markup=False, highlight=False, soft_wrap=True)
