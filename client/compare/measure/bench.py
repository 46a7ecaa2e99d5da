"""Runs an experiment: brings the architectures up, replays each trace on all of them in turn, keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import replace

from client.api import ClientError
from client.compare.measure import accounts, searching
from client.compare.measure.environment import environment
from client.compare.measure.results import Measured, Results
from client.compare.measure.scoring import check, score
from client.compare.measure.sides import Side, reach, salted, start
from client.compare.measure.supply import Supply
from client.compare.plan.experiment import Architecture, Experiment
from client.compare.plan.schedule import Cell, schedule
from client.launch import pinned
from client.load.arrivals import Poisson
from client.load.record import Record, Run
from client.load.runner import Load, run
from client.load.warmup import warm_up

_GONE_SECONDS = 10.0
_GONE = (0, 503)  # nobody answers, or only to say that nothing is served any more
REST = 0.5  # seconds before each turn: threads of whoever was at work may spin for a while (Intel's OpenMP 200 ms)
_MANY = 20  # failures in a row: time to ask whether the server is still there


class Watcher:
    """What is told of the progress. Does nothing by itself."""

    def starting(self, architecture: Architecture) -> None:
        """A server of this architecture is about to be started."""

    def planned(self, requests: int) -> None:
        """Everything is up; so many requests follow."""

    def measuring(self, architecture: Architecture, cell: Cell) -> None:
        """A cell begins."""

    def searching(self, architecture: Architecture, rate: float, requests: int) -> None:
        """A rate is tried with so many requests more."""

    def answered(self, record: Record) -> None:
        """One request of it is over."""

    def measured(self, results: Results) -> None:
        """A cell is over, and in the results."""


Stopping = Callable[[], AbstractContextManager[asyncio.Event]]


@contextmanager
def never() -> Iterator[asyncio.Event]:
    """An event that nobody sets."""
    yield asyncio.Event()


async def measure(
    experiment: Experiment,
    *,
    stopping: Stopping = never,
    watcher: Watcher | None = None,
    before: Results | None = None,
) -> Results:
    """The results of every cell; or of those until the event of `stopping`, which is entered when all is warm, was set.
    Cells that `before` holds are not measured again.

    Raises LaunchError and ClientError for an architecture that cannot be reached or does not answer the warm-up, and
    WorkloadError for one that cannot hold the workload or the texts to be scored; single requests that fail are in the
    records.
    """
    watcher = watcher or Watcher()
    async with AsyncExitStack() as stack:
        addresses = [await start(stack, experiment, one, watcher.starting) for one in experiment.architectures]
        results = before or Results(experiment, (), {})
        results.environment = environment(experiment)
        # Only now: what is started within is pinned as well, and what connects before has threads that are not.
        stack.enter_context(pinned(experiment.client_cores))
        sides = [await reach(stack, *one) for one in zip(experiment.architectures, addresses, strict=True)]
        sides = salted(sides, experiment)
        subjects = [side.subject for side in sides]
        results.cards = tuple(subject.card for subject in subjects)
        supply = Supply(experiment, subjects)
        await supply.check()
        check(experiment.quality or (), subjects)
        await warm_up(experiment.workload, experiment.warmup, subjects, experiment.seed, supply.warm_trace())
        with stopping() as stop:
            await _Bench(experiment, sides, watcher, results, supply).run(stop)
    return results


async def _rest(stop: asyncio.Event) -> None:
    """Wait until `stop`, for REST at most."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), REST)


class _Bench:
    """One experiment under way."""

    def __init__(
        self, experiment: Experiment, sides: list[Side], watcher: Watcher, results: Results, supply: Supply
    ) -> None:
        self._experiment = experiment
        self._sides = sides
        self._watcher = watcher
        self._results = results
        self._supply = supply

    async def run(self, stop: asyncio.Event) -> None:
        experiment = self._experiment
        sizes = experiment.repeats, len(experiment.levels), len(experiment.architectures)
        cells = schedule(*sizes, experiment.order, experiment.seed)
        done = {m.cell for m in self._results.measured}
        left = [cell for cell in cells if cell not in done]
        self._watcher.planned(sum(experiment.requests[cell.level] for cell in left))
        await self._facts()
        for cell in left:
            await _rest(stop)
            if stop.is_set() or self._results.gone:
                break
            await self._measure(cell, stop)
        await self._search(stop)
        await self._qualities(stop)
        self._results.interrupted = stop.is_set()

    async def _facts(self) -> None:
        """What is asked once of each: what runs, and the size of its cache."""
        readings = [await self._reading(side) for side in self._sides]
        builds = zip(self._experiment.architectures, readings, strict=True)
        told = {one.name: ", ".join(reading.build) for one, reading in builds if reading and reading.build}
        self._results.environment |= {"servers": told} if told else {}
        caches = zip(readings, self._results.cards, strict=True)
        self._results.capacities = tuple(accounts.capacity(*one) for one in caches)

    async def _qualities(self, stop: asyncio.Event) -> None:
        """Score the held texts after all that is timed: what was scored is in the prefix caches, and prompts are of the
        same texts."""
        asked = self._experiment.quality is not None and not any(self._results.qualities)
        if asked and not stop.is_set() and not self._results.gone:
            scored = await score(self._sides, self._results.asked, self._experiment.quality or ())
            self._results.qualities, self._results.unscored = scored

    async def _measure(self, cell: Cell, stop: asyncio.Event) -> None:
        experiment, side = self._experiment, self._sides[cell.architecture]
        self._watcher.measuring(experiment.architectures[cell.architecture], cell)
        load = Load(
            await self._supply.cell(cell), experiment.levels[cell.level], side.subject.card.id, salt=side.subject.salt
        )
        before = await self._reading(side)
        done = await self._sent(cell.architecture, load, stop)
        account = accounts.between(before, await self._reading(side))
        self._results.gone = await self._gone(cell.architecture, done)
        done = replace(done, interrupted=done.interrupted or bool(self._results.gone))  # to be measured again
        self._results.measured.append(Measured(cell, done, account))
        self._watcher.measured(self._results)

    async def _sent(self, architecture: int, load: Load, stop: asyncio.Event) -> Run:
        """Send a load to its end, or until `stop`, or until many requests in a row failed as the server is gone."""
        end, asking, in_a_row = asyncio.Event(), set[asyncio.Task[None]](), 0

        def answered(record: Record) -> None:
            nonlocal in_a_row
            in_a_row = in_a_row + 1 if record.error else 0
            self._watcher.answered(record)
            if in_a_row and in_a_row % _MANY == 0:
                asking.add(asyncio.create_task(ask()))

        async def ask() -> None:
            if await self._unanswered(architecture):
                end.set()

        async def forward() -> None:
            await stop.wait()
            end.set()

        asking.add(asyncio.create_task(forward()))
        try:
            return await run(self._sides[architecture].subject.client, load, stop=end, on_record=answered)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)

    async def _gone(self, architecture: int, done: Run) -> str:
        """Why there is no use in going on: requests failed, and the server does not answer any more. Else empty."""
        return await self._unanswered(architecture) if any(record.error for record in done.records) else ""

    async def _unanswered(self, architecture: int) -> str:
        """Why its server is gone; empty where it is not."""
        try:
            async with asyncio.timeout(_GONE_SECONDS):
                await self._sides[architecture].subject.client.models()
        except TimeoutError:
            error = f"no answer within {_GONE_SECONDS:g} s"
        except ClientError as refusal:
            if refusal.status not in _GONE:  # it answers, if only that it will not
                return ""
            error = refusal.message
        else:
            return ""
        return f"{self._experiment.architectures[architecture].name}: {error}"

    async def _reading(self, side: Side) -> accounts.Reading | None:
        return await accounts.read(side.http, side.subject.card.id) if side.http else None

    async def _search(self, stop: asyncio.Event) -> None:
        """All architectures but a control in turn, a rate each, until each has found its highest."""
        search = self._experiment.search
        tried = self._results.tried
        step = 0
        while search is not None and not stop.is_set() and not self._results.gone:
            rates = {i: searching.to_try(search, tried, i) for i in self._results.asked}
            if all(rate is None for rate in rates.values()):
                return
            for i, rate in rates.items():
                if rate is None or self._results.gone:
                    continue
                await _rest(stop)
                if stop.is_set():
                    return
                one = await self._try(i, rate, step, stop)
                if not stop.is_set() and not self._results.gone:  # one that was stopped tells nothing
                    tried.append(one)
                    self._watcher.measured(self._results)
            step += 1

    async def _try(self, architecture: int, rate: float, step: int, stop: asyncio.Event) -> searching.Tried:
        experiment, side = self._experiment, self._sides[architecture]
        assert experiment.search is not None
        trace = await self._supply.probe(step, rate)
        self._watcher.searching(experiment.architectures[architecture], rate, len(trace.rows))
        load = Load(trace, Poisson(rate), side.subject.card.id, salt=side.subject.salt)
        done = await self._sent(architecture, load, stop)
        self._results.gone = await self._gone(architecture, done)
        return searching.judged(experiment.search, experiment.objective, architecture, rate, done)
