"""A model that is sent to a GPU: what fits, what is said where it does not. No GPU is needed: nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from server import build
from server.build import TooLarge, build_model
from server.engine.gpu import PAGE_SIZE, GpuRunner
from tests.fakes import Recorder
from tests.server.kit import settings

GIGABYTE = 10**9


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A device of shapes without numbers, with so much free memory."""
    monkeypatch.setattr(build, "find_device", lambda wanted: torch.device("meta"))
    monkeypatch.setattr(build, "free_bytes", lambda device: request.param)
    monkeypatch.setattr(GpuRunner, "capture", nothing)
    return int(request.param)


def nothing(self: GpuRunner) -> Iterator[float]:
    return iter(())


OPTIONS = settings(dtype="bfloat16", device="cuda", scale="tiny", max_rows=8)


@pytest.mark.parametrize("free", [GIGABYTE], indirect=True)
def test_the_cache_is_as_large_as_it_can_be_of_use(free: int) -> None:
    model = build_model("llama-3-8b", OPTIONS, Recorder())
    runner = model.engine._runner
    assert isinstance(runner, GpuRunner)
    assert runner.room.tokens == 8 * model.architecture.context and runner.block_size == PAGE_SIZE
    assert {tensor.device.type for tensor in runner.cache.keys} == {"meta"}
    assert runner.dtype == torch.bfloat16


@pytest.mark.parametrize("free", [20_000_000], indirect=True)
def test_with_little_memory_it_takes_its_share_of_that(free: int) -> None:
    found = []
    for share in (0.3, 0.6):
        options = settings(dtype="bfloat16", scale="tiny", max_rows=64, cache_share=share)
        runner = build_model("llama-3-8b@cuda", options, Recorder()).engine._runner
        assert isinstance(runner, GpuRunner)
        found.append(sum(group.num_blocks * group.bytes_per_block for group in runner.groups))
    assert 0.2 * free < found[0] <= 0.3 * free < found[1] <= 0.6 * free


@pytest.mark.parametrize(
    ("free", "more", "words"),
    [
        (1000, {}, r"model llama-3-8b: 0\.\d GB of weights, meta has 0\.0 GB free"),
        (20_000_000, {"cache_tokens": 10**6}, r"GB of cache for 1000000 tokens, meta has 0\.0 GB free; lower --cache-"),
    ],
    indirect=["free"],
)
def test_what_does_not_fit_is_said_in_one_line(free: int, more: dict[str, int], words: str) -> None:
    options = settings(dtype="bfloat16", scale="tiny", max_rows=8, **more)
    with pytest.raises(TooLarge, match=words) as refused:
        build_model("llama-3-8b", options, Recorder())
    assert "\n" not in str(refused.value)
