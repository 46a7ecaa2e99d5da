"""Where the requests of an experiment come from: drawn, or from a trace. No two cells of one architecture share any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.api import ClientError
from client.compare.plan.experiment import Experiment
from client.compare.plan.schedule import Cell, first_row
from client.load.arrivals import Arrivals, Closed, Poisson, Recorded, offsets
from client.load.trace import Trace
from client.load.workload import Subject, WorkloadError, draw


class Supply:
    """The traces of one experiment, each drawn once for all architectures."""

    def __init__(self, experiment: Experiment, subjects: Sequence[Subject]) -> None:
        """Raises TraceError and OSError where the experiment's trace cannot be read."""
        self._experiment = experiment
        self._subjects = subjects
        self._whole = None if experiment.trace is None else Trace.read(experiment.trace)
        self._last: tuple[tuple[int, Arrivals], Trace] | None = None

    async def check(self) -> None:
        """Raises WorkloadError where a trace is too short, or a model cannot hold what is in it."""
        if self._whole is None:
            return
        experiment = self._experiment
        needed = experiment.warmup + experiment.repeats * sum(experiment.requests)
        if len(self._whole.rows) < needed:
            raise WorkloadError(f"{experiment.trace} has {len(self._whole.rows)} requests; the rounds need {needed}")
        for subject in self._subjects:
            await _holds(self._whole, subject)

    def warm_trace(self) -> Trace | None:
        """The requests before the measured ones; None where they are drawn."""
        return None if self._whole is None else Trace(self._whole.rows[: self._experiment.warmup])

    async def cell(self, cell: Cell) -> Trace:
        """The trace of the cell's repeat and level."""
        experiment = self._experiment
        start = experiment.warmup + first_row(cell, experiment.requests)
        return await self._from(start, experiment.requests[cell.level], experiment.levels[cell.level])

    async def probe(self, step: int, rate: float) -> Trace:
        """The trace of one step of a search; those of a short file come again."""
        experiment, search = self._experiment, self._experiment.search
        assert search is not None
        least = experiment.workload.requests
        before = experiment.repeats * sum(experiment.requests) + step * search.requests(search.high, least)
        return await self._from(experiment.warmup + before, search.requests(rate, least), Poisson(rate))

    async def _from(self, start: int, count: int, arrivals: Arrivals) -> Trace:
        if self._last is None or self._last[0] != (start, arrivals):
            self._last = (start, arrivals), await self._drawn(start, count, arrivals)
        return self._last[1]

    async def _drawn(self, start: int, count: int, arrivals: Arrivals) -> Trace:
        experiment = self._experiment
        if self._whole is None:
            assert not isinstance(arrivals, Recorded), "only a trace has instants of its own"
            workload = replace(experiment.workload, requests=count)
            return await draw(workload, arrivals, self._subjects, seed=experiment.seed, start=start)
        rows = [self._whole.rows[(start + i) % len(self._whole.rows)] for i in range(count)]
        if isinstance(arrivals, Recorded):
            return Trace(tuple(replace(row, offset=row.offset - rows[0].offset) for row in rows))
        if isinstance(arrivals, Closed):
            return Trace(tuple(replace(row, offset=0.0) for row in rows))
        return Trace(tuple(rows)).timed(offsets(arrivals, count, (experiment.seed, start)))


async def _holds(trace: Trace, subject: Subject) -> None:
    """Raises WorkloadError where a row is too long for the model, or has ids that it does not know."""
    card = subject.card
    for number, row in enumerate(trace.rows):
        needed = row.max_tokens + await tokens_of(row.prompt, subject, row.max_tokens)
        if card.context and needed > card.context:
            raise WorkloadError(f"{subject.said} holds {card.context} tokens; row {number} of the trace needs {needed}")
        highest = max(row.prompt) if isinstance(row.prompt, tuple) else 0
        if card.vocab and highest >= card.vocab:
            raise WorkloadError(f"{subject.said} knows {card.vocab} tokens; row {number} of the trace has {highest}")


async def tokens_of(prompt: str | tuple[int, ...], subject: Subject, besides: int = 0) -> int:
    """Tokens of the prompt. A text has at most as many as bytes: one that fits anyway, with so many tokens besides, is
    not asked about, and counts as one, as does one of which the server does not tell."""
    if isinstance(prompt, tuple):
        return len(prompt)
    if not subject.card.context or len(prompt.encode()) + besides < subject.card.context:
        return 1
    try:
        return len(await subject.client.tokenize(prompt, subject.card.id))
    except ClientError:
        return 1
