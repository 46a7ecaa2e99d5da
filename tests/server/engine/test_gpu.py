"""What goes wrong on a GPU: captures that fail, faults it does not recover from."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from model.kernels import flex
from model.kernels.gpu import FEW
from server.engine.gpu import GpuRunner
from server.engine.request import Request, Sampling
from server.engine.runner import Room
from server.engine.step import DeviceLost, Row, Step
from tests.model.cases import MIXED_CASES, SPAN_CASES
from tests.model.randomise import random_model
from tests.model.recorded import Recorder

WINDOWS = SPAN_CASES["window, chunk and full layers"]


def one_row(runner: GpuRunner) -> Step:
    request = Request("a", (1, 2, 3), Sampling(4, temperature=0.0), 0.0)
    return Step(0, (Row(request, 0, 3, tuple((1,) for _ in runner.groups)),))


def test_a_capture_that_fails_is_said_once_and_done_without(caplog: pytest.LogCaptureFixture) -> None:
    model = random_model(MIXED_CASES["local and global, sandwiched"])
    runner, tried = GpuRunner(model, Room(200, 3, 21)), []

    def fail(compute: Any) -> Any:
        tried.append(compute)
        if len(tried) == 2:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return object(), compute()

    monkey = pytest.MonkeyPatch()
    monkey.setattr(flex, "has_kernel", lambda *_: True)
    with caplog.at_level(logging.INFO):
        assert list(runner.capture(fail)) == [1 / 3]
    monkey.undo()
    assert [record.getMessage() for record in caplog.records] == [
        "steps are not captured: RuntimeError: operation not permitted when stream is capturing"
    ]
    assert runner.captured == ()
    assert runner.run(one_row(runner)).tokens


def test_an_architecture_without_kernels_says_why_it_is_not_captured(caplog: pytest.LogCaptureFixture) -> None:
    runner = GpuRunner(random_model(MIXED_CASES["local and global, sandwiched"]), Room(200, 3, 21))
    with caplog.at_level(logging.INFO):
        assert list(runner.capture(lambda compute: pytest.fail("captured"))) == []
    assert caplog.messages == ["steps are not captured: a layer's attention copies its pages together"]


def test_a_step_that_is_not_captured_is_tried_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "has_kernel", lambda *_: True)
    runner = GpuRunner(random_model(WINDOWS), Room(200, 3, 21))
    steps: list[Step] = []
    run = runner.run
    monkeypatch.setattr(runner, "run", lambda step: (steps.append(step), run(step)))
    assert list(runner.capture(Recorder(), wanted=(1, 2))) == [0.5, 1.0] and runner.captured == (1, 2)
    prompt, token = steps[0].rows
    assert prompt.count == min(2 * FEW, runner.model.architecture.context) and token.count == 1
    spare = [group.num_blocks for group in runner.groups]
    assert all(set(pages) == {own} for row in steps[0].rows for pages, own in zip(row.tables, spare, strict=True))
    for layer, own in enumerate(runner.cache.pools.groups):
        assert not runner.cache.keys[layer][: spare[own]].any(), "only a page that nobody has was written"


def test_a_trial_that_fails_does_not_end_the_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "has_kernel", lambda *_: True)
    runner = GpuRunner(random_model(WINDOWS), Room(200, 3, 21))

    def fail(step: Step) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runner, "run", fail)
    list(runner.capture(Recorder()))
    assert runner.captured == (1, 2, 3)
    assert caplog.messages == ["the first prompt will have to wait: OutOfMemoryError: CUDA out of memory"]


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_gpu_does_not_recover_from_is_lost(
    fault: RuntimeError, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = GpuRunner(random_model(WINDOWS), Room(200, 3, 21))

    def fail(inputs: Any) -> Any:
        raise fault

    monkeypatch.setattr(runner, "_compute", fail)
    with pytest.raises(DeviceLost if lost else type(fault)) as raised:
        runner.run(one_row(runner))
    assert str(fault) in str(raised.value)


def test_a_fatal_fault_while_capturing_ends_the_start() -> None:
    runner = GpuRunner(random_model(WINDOWS), Room(200, 3, 21))

    def fail(compute: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "has_kernel", lambda *_: True)
        with pytest.raises(torch.AcceleratorError):
            list(runner.capture(fail))
