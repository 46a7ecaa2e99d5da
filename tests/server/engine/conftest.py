"""An engine over the fake runner, driven to its end with the books checked after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from server.engine.ending import Delta
from server.engine.engine import Engine
from server.engine.request import Request
from server.engine.stats import RequestStats
from tests.fakes import Clock, FakeRunner, Recorder


@dataclass
class Rig:
    """What a test of the engine holds in its hands."""

    runner: FakeRunner
    engine: Engine
    clock: Clock
    seen: Recorder
    deltas: list[Delta] = field(default_factory=list)

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.engine.add(request)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.deltas += self.engine.step()
            self.engine.check()

    def finish(self) -> None:
        while self.engine.has_work:
            self.step()

    def said(self, id: str) -> list[int]:
        return [token for delta in self.deltas if delta.request.id == id for token in delta.tokens]

    def last(self, id: str) -> Delta:
        return next(delta for delta in self.deltas if delta.request.id == id and delta.stats is not None)

    def stats(self, id: str) -> RequestStats:
        stats = self.last(id).stats
        assert stats is not None
        return stats

    def rows(self) -> Iterable[list[tuple[str, int, int]]]:
        """(id, start, count) of the rows of each step that was run."""
        return [[(row.request.id, row.start, row.count) for row in step.rows] for step in self.runner.steps]


@pytest.fixture
def rig() -> Callable[..., Rig]:
    """make(what Engine takes beside its name, runner and clock, and what FakeRunner takes)"""
    engines = ("max_batch_tokens", "max_rows", "prefix_cache", "chunk_seconds", "speculate", "drafter")

    def make(*, step_seconds: float = 0.0, observer: Any = None, **options: Any) -> Rig:
        own = {name: options.pop(name) for name in engines if name in options}
        clock, seen = Clock(), Recorder()
        runner = FakeRunner(clock=clock, step_seconds=step_seconds, **options)
        return Rig(runner, Engine("fake", runner, observer=observer or seen, clock=clock, **own), clock, seen)

    return make
