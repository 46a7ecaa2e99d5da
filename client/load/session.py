"""A load from the command line: connect, warm up, send, show progress, sum up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.access import Access
from client.connect import connect
from client.interrupts import gently
from client.load import report
from client.load.arrivals import Arrivals, Closed, Drawn, Recorded, offsets
from client.load.record import Record, Run
from client.load.runner import Bounds, Load, run
from client.load.statistics import Objective, Summary, summarise
from client.load.trace import Trace
from client.load.warmup import enough, warm_up
from client.load.workload import Prompts, Subject, Workload, draw, find


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the user said. `arrivals` None stands for the instants of the trace."""

    target: str
    model: str
    arrivals: Drawn | None
    workload: Workload
    seed: int = 0
    warmup: int = 4
    bounds: Bounds = field(default_factory=Bounds)
    objective: Objective = field(default_factory=Objective)
    trace: Path | None = None
    save_trace: Path | None = None
    access: Access | None = None

    @property
    def warm(self) -> int:
        """Requests before, of which a closed loop needs as many as it has at once; 0 where none are wanted."""
        wanted = enough([self.arrivals] if isinstance(self.arrivals, Closed) else [])
        return max(self.warmup, wanted) if self.warmup else 0


@dataclass(frozen=True, slots=True)
class Done:
    """A run and what it came to. `unshared`: its prompts were drawn, and not so that they begin alike;
    `objective`: what goodput asks for."""

    run: Run
    summary: Summary
    unshared: bool = False
    objective: Objective = field(default_factory=Objective)

    @property
    def failed(self) -> str:
        """Why this run measured nothing worth having: no request was answered, or more than half failed. Else empty."""
        one = self.summary
        if not one.completed:
            return "no request was answered"
        return f"{one.errors} of {one.requests} requests failed" if 2 * one.errors > one.requests else ""

    def document(self) -> dict[str, Any]:
        return report.document(self.run, self.summary, unshared=self.unshared)

    def view(self) -> RenderableType:
        return report.view(self.run, self.summary, unshared=self.unshared, objective=self.objective)


async def put_under_load(plan: Plan, console: Console) -> Done:
    """Ctrl-C ends it early and keeps what was measured. Raises ClientError, WorkloadError, TraceError and OSError."""
    arrivals: Arrivals = plan.arrivals or Recorded()
    async with connect(plan.target, plan.access) as client:
        subject = Subject(client, find(await client.models(), plan.model))
        trace = await _trace(plan, subject)
        if plan.save_trace is not None:
            trace.write(plan.save_trace)
        await warm_up(plan.workload, plan.warm, [subject], plan.seed)
        with progress(console) as bar, gently() as stop:
            task = bar.add_task("load", total=len(trace.rows), errors="")
            watch = Errors(bar, task)
            load = Load(trace, arrivals, subject.card.id, bounds=plan.bounds)
            done = await run(client, load, stop=stop, on_record=watch.saw)
    unshared = plan.trace is None and plan.workload.prompts is not Prompts.SHARED
    return Done(done, summarise(done.records, done.seconds, plan.objective), unshared, plan.objective)


def progress(console: Console) -> Progress:
    """A bar of requests."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("[red]{task.fields[errors]}"), console=console, transient=True)


class Errors:
    """Moves the bar, and says on it how many requests failed."""

    def __init__(self, bar: Progress, task: Any) -> None:
        self._bar = bar
        self._task = task
        self._count = 0

    def saw(self, record: Record) -> None:
        self._count += bool(record.error)
        self._bar.update(self._task, advance=1, errors=f"{self._count} failed" if self._count else "")


async def _trace(plan: Plan, subject: Subject) -> Trace:
    if plan.trace is None:
        assert plan.arrivals is not None, "nothing says when requests are due"
        return await draw(plan.workload, plan.arrivals, [subject], seed=plan.seed, start=plan.warm)
    trace = Trace.read(plan.trace)
    if plan.arrivals is None or isinstance(plan.arrivals, Closed):
        return trace
    return trace.timed(offsets(plan.arrivals, len(trace.rows), plan.seed))
