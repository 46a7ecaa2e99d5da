"""Runs an experiment: brings the architectures up, replays each trace on all of them in turn, keeps what it gets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

from client.api import Client, ClientError
from client.compare.environment import environment
from client.compare.experiment import Architecture, Experiment
from client.compare.results import Measured, Results
from client.compare.schedule import Cell, first_row, schedule
from client.connect import connect
from client.launch import ServerProcess
from client.load.arrivals import Closed
from client.load.record import Record
from client.load.runner import Load, run
from client.load.trace import Trace
from client.load.workload import Subject, WorkloadError, draw, find

_WARM_UP_AT_ONCE = 4


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


async def measure(
    experiment: Experiment, *, stop: asyncio.Event | None = None, watcher: Watcher | None = None
) -> Results:
    """The results of every cell, or of those before `stop` was set.

    Raises LaunchError and ClientError for an architecture that cannot be reached or does not answer the warm-up, and
    WorkloadError for one that cannot hold the workload; single requests that fail are in the records.
    """
    watcher = watcher or Watcher()
    async with AsyncExitStack() as stack:
        subjects = [await _bring_up(stack, experiment, one, watcher) for one in experiment.architectures]
        results = Results(experiment, tuple(subject.card for subject in subjects), environment())
        bench = _Bench(experiment, subjects, stop or asyncio.Event(), watcher, results)
        await bench.warm_up()
        await bench.run()
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

    def __init__(
        self, experiment: Experiment, subjects: list[Subject], stop: asyncio.Event, watcher: Watcher, results: Results
    ) -> None:
        self._experiment = experiment
        self._subjects = subjects
        self._stop = stop
        self._watcher = watcher
        self._results = results
        self._traces: dict[tuple[int, int], Trace] = {}  # the one in use

    async def warm_up(self) -> None:
        """A few requests to each architecture, so that no measured one pays for a first time. All must be answered."""
        arrivals = Closed(_WARM_UP_AT_ONCE)
        if not self._experiment.warmup:
            return
        workload = replace(self._experiment.workload, requests=self._experiment.warmup)
        trace = await draw(workload, arrivals, self._subjects, seed=self._experiment.seed)
        for architecture, subject in zip(self._experiment.architectures, self._subjects, strict=True):
            done = await run(subject.client, Load(trace, arrivals, subject.card.id), stop=self._stop)
            if failed := next((record for record in done.records if not record.ok), None):
                raise ClientError(f"{architecture.name}: a warm-up request failed: {failed.error}")

    async def run(self) -> None:
        experiment = self._experiment
        cells = schedule(experiment.repeats, len(experiment.levels), len(experiment.architectures))
        self._watcher.planned(len(cells) * experiment.workload.requests)
        for cell in cells:
            if self._stop.is_set():
                break
            await self._measure(cell)
        self._results.interrupted = self._stop.is_set()
        self._watcher.measured(self._results)

    async def _measure(self, cell: Cell) -> None:
        experiment, subject = self._experiment, self._subjects[cell.architecture]
        self._watcher.measuring(experiment.architectures[cell.architecture], cell)
        arrivals = experiment.levels[cell.level]
        load = Load(await self._trace(cell), arrivals, subject.card.id)
        done = await run(subject.client, load, stop=self._stop, on_record=self._watcher.answered)
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
