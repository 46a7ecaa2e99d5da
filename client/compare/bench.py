"""Runs an experiment: brings the architectures up, replays each trace on all of them in turn, keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager

from client.api import Client, ClientError
from client.compare.environment import environment
from client.compare.experiment import Architecture, Experiment
from client.compare.results import Measured, Results
from client.compare.schedule import Cell, first_row, schedule
from client.connect import connect
from client.launch import ServerProcess
from client.load.record import Record
from client.load.runner import Load, run
from client.load.trace import Trace
from client.load.warmup import warm_up
from client.load.workload import Subject, WorkloadError, draw, find


class Watcher:
    """What is told of the progress. Does nothing by itself."""

    def starting(self, architecture: Architecture) -> None:
        """A server of this architecture is about to be started."""

    def planned(self, requests: int) -> None:
        """Everything is up; so many requests follow."""

    def measuring(self, architecture: Architecture, cell: Cell) -> None:
        """A cell begins."""

    def answered(self, record: Record) -> None:
        """One request of it is over."""

    def measured(self, results: Results) -> None:
        """A cell is over, and in the results."""


Stopping = Callable[[], AbstractContextManager[asyncio.Event]]


@contextmanager
def never() -> Iterator[asyncio.Event]:
    """An event that nobody sets."""
    yield asyncio.Event()


async def measure(experiment: Experiment, *, stopping: Stopping = never, watcher: Watcher | None = None) -> Results:
    """The results of every cell; or of those until the event of `stopping`, which is entered when all is warm, was set.

    Raises LaunchError and ClientError for an architecture that cannot be reached or does not answer the warm-up, and
    WorkloadError for one that cannot hold the workload; single requests that fail are in the records.
    """
    watcher = watcher or Watcher()
    async with AsyncExitStack() as stack:
        subjects = [await _bring_up(stack, experiment, one, watcher) for one in experiment.architectures]
        results = Results(experiment, tuple(subject.card for subject in subjects), environment())
        await warm_up(experiment.workload, experiment.warmup, subjects, experiment.seed)
        with stopping() as stop:
            await _Bench(experiment, subjects, watcher, results).run(stop)
    return results


async def _bring_up(stack: AsyncExitStack, experiment: Experiment, one: Architecture, watcher: Watcher) -> Subject:
    try:
        target = one.target or await _start(stack, experiment, one, watcher)
        client: Client = await stack.enter_async_context(connect(target))
        return Subject(client, find(await client.models(), one.model if one.target else ""))
    except (ClientError, WorkloadError) as error:
        raise type(error)(f"{one.name}: {error}") from error


async def _start(stack: AsyncExitStack, experiment: Experiment, one: Architecture, watcher: Watcher) -> str:
    watcher.starting(one)
    server = await stack.enter_async_context(ServerProcess((*one.server_flags(), *experiment.flags)))
    return server.grpc if experiment.transport == "grpc" else server.http


class _Bench:
    """One experiment under way."""

    def __init__(self, experiment: Experiment, subjects: list[Subject], watcher: Watcher, results: Results) -> None:
        self._experiment = experiment
        self._subjects = subjects
        self._watcher = watcher
        self._results = results
        self._traces: dict[tuple[int, int], Trace] = {}  # the one in use

    async def run(self, stop: asyncio.Event) -> None:
        experiment = self._experiment
        cells = schedule(experiment.repeats, len(experiment.levels), len(experiment.architectures))
        self._watcher.planned(len(cells) * experiment.workload.requests)
        for cell in cells:
            if stop.is_set():
                break
            await self._measure(cell, stop)
        self._results.interrupted = stop.is_set()

    async def _measure(self, cell: Cell, stop: asyncio.Event) -> None:
        experiment, subject = self._experiment, self._subjects[cell.architecture]
        self._watcher.measuring(experiment.architectures[cell.architecture], cell)
        arrivals = experiment.levels[cell.level]
        load = Load(await self._trace(cell), arrivals, subject.card.id)
        done = await run(subject.client, load, stop=stop, on_record=self._watcher.answered)
        self._results.measured.append(Measured(cell, done))
        self._watcher.measured(self._results)

    async def _trace(self, cell: Cell) -> Trace:
        """The trace of the cell's repeat and level, drawn once for all architectures."""
        experiment = self._experiment
        place = (cell.repeat, cell.level)
        if place not in self._traces:
            start = experiment.warmup + first_row(cell, len(experiment.levels), experiment.workload.requests)
            arrivals = experiment.levels[cell.level]
            trace = await draw(experiment.workload, arrivals, self._subjects, seed=experiment.seed, start=start)
            self._traces = {place: trace}
        return self._traces[place]
