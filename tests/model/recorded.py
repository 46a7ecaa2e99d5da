"""A stand-in for captured graphs: it runs the same computation again, and overwrites what the first run gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import Tensor

from model.kernels import flex
from model.transformer import StepInput, Transformer
from server.engine.gpu import GpuRunner
from server.engine.graphs import Graph
from server.engine.results import Computed
from server.engine.runner import Room
from server.engine.staging import leaves, rebuilt
from server.engine.step import Step, StepResult


class Recording:
    """`replays` counts. A graph's inputs and output are where they were when it was captured."""

    def __init__(self, compute: Callable[[], Computed]) -> None:
        self.compute, self.replays = compute, 0
        self.output: Computed = _copy(compute())

    def replay(self) -> None:
        self.replays += 1
        for kept, fresh in zip(leaves(self.output), leaves(self.compute()), strict=True):
            kept.copy_(fresh)


def _copy(output: Computed) -> Computed:
    copies: Iterator[Tensor] = iter([tensor.clone() for tensor in leaves(output)])
    made: Computed = rebuilt(output, copies)
    return made


class Recorder:
    """A capture for the processor; `recordings` are what it made, in order."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []

    def __call__(self, compute: Callable[[], Computed]) -> tuple[Graph, Computed]:
        self.recordings.append(Recording(compute))
        return self.recordings[-1], self.recordings[-1].output

    @property
    def replays(self) -> int:
        return sum(recording.replays for recording in self.recordings)


class RecordedRunner(GpuRunner):
    """A GPU's runner on the processor, every size captured; heads of any size count as ones that have a kernel."""

    def __init__(self, model: Transformer, room: Room, vocab: int | None = None) -> None:
        super().__init__(model, room, vocab)
        self.recorder = Recorder()
        kernel, flex.has_kernel = flex.has_kernel, lambda *_: True
        try:
            self.shares = list(self.capture(self.recorder))
        finally:
            flex.has_kernel = kernel


def overhear(runner: GpuRunner, step: Step) -> tuple[Tensor, StepResult]:
    """Run a step; the logits it computed, which a replay does not get from the model, and its result."""
    heard: list[Tensor] = []
    compute = runner._compute

    def listen(inputs: StepInput) -> tuple[Computed, Any]:
        done, ended = compute(inputs)
        heard.append(done.logits.clone())
        return done, ended

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_compute", listen)
        result = runner.run(step)
    return heard[0], result
