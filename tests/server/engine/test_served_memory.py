"""Encoder-decoders through the engine, and cache memory against the formula: real models, tiny."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from model import presets
from model.config import Architecture
from model.dense import DenseMemory, dense_input, dense_memory
from model.footprint import cache_bytes
from model.initialise import initialise, random_model
from model.transformer import Transformer
from server.engine.engine import Engine
from server.engine.request import Outcome, Request, Sampling
from server.engine.runner import ModelRunner, Room
from server.engine.stats import RequestStats
from tests.fakes import Recorder

PAGE = 16


def tiny(name: str) -> Transformer:
    model = random_model(presets.scaled(presets.load(name), "tiny"), 0)
    initialise(model, 1, 0.2)
    return model.eval().requires_grad_(False)


def serve(model: Transformer, requests: list[Request], chunk: int = 16) -> dict[str, RequestStats]:
    engine = Engine(
        "m", ModelRunner(model, Room(1024, 8, chunk)), observer=Recorder(), max_batch_tokens=chunk, max_rows=8
    )
    for request in requests:
        engine.add(request)
    ended: dict[str, RequestStats] = {}
    while engine.has_work:
        ended |= {delta.request.id: delta.stats for delta in engine.step() if delta.stats is not None}
        engine.check()
    return ended


def greedy(model: Transformer, source: tuple[int, ...], start: tuple[int, ...], count: int) -> list[int]:
    memory, tokens = dense_memory(model, torch.tensor([source])), list(start)
    for _ in range(count):
        step = dense_input(model.architecture, torch.tensor([tokens]), memory)
        tokens.append(int(model(step).logits[-1].argmax()))
    return tokens[len(start) :]


@pytest.mark.parametrize("name", ["transformer-base", "switch-base-8"])
def test_an_answer_is_what_the_uncached_forward_says(name: str) -> None:
    model, random = tiny(name), np.random.default_rng(0)
    sources = [tuple(random.integers(0, 256, size).tolist()) for size in (3, 17, 40, 40)]
    sources.append(sources[-1])  # the same source twice: a shared prefix of the answers, too
    starts = [(0,), (0, 5), (1,), (7,) * 20, (7,) * 20]
    requests = [
        Request(str(i), start, Sampling(8, temperature=0.0), 0.0, source=source)
        for i, (source, start) in enumerate(zip(sources, starts, strict=True))
    ]
    ended = serve(model, requests)
    assert {stats.outcome for stats in ended.values()} == {Outcome.LENGTH}
    for request, source, start in zip(requests, sources, starts, strict=True):
        assert request.outputs == greedy(model, source, start, 8)
        assert ended[request.id].prompt_tokens == len(source) + len(start)


def test_reading_a_source_is_time_inside_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any) -> DenseMemory:
        time.sleep(0.1)
        return dense_memory(*args)

    monkeypatch.setattr("server.engine.memory.dense_memory", slow)
    ended = serve(tiny("transformer-base"), [Request("a", (0,), Sampling(1, temperature=0.0), 0.0, source=(1, 2, 3))])
    assert ended["a"].latency.forward >= 0.1


def formula(architecture: Architecture, tokens: int) -> int:
    """The card's bytes for whole pages of `tokens`."""
    return cache_bytes(architecture, -(-tokens // PAGE) * PAGE, "float32")


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3-8b", "palm-540b", "mixtral-8x7b", "deepseek-v3"])
def test_a_request_holds_the_cache_bytes_of_the_card(name: str) -> None:
    model = tiny(name)
    ended = serve(model, [Request("a", tuple(range(60)), Sampling(30, temperature=0.0), 0.0)])
    assert ended["a"].cache_bytes == formula(model.architecture, 60 + 30 - 1)


@pytest.mark.parametrize("name", ["mistral-7b", "gemma-3-27b", "gpt-oss-120b"])
def test_a_window_holds_no_more_than_its_reach(name: str) -> None:
    model = tiny(name)
    ended = serve(model, [Request("a", tuple(range(100)), Sampling(100, temperature=0.0), 0.0)])
    groups = ModelRunner(model, Room(1024, 8, 16)).groups
    sizes = [getattr(group.span, "size", None) for group in groups]
    reach = [
        -(-200 // PAGE) if size is None else min(-(-200 // PAGE), (size - 1 + 16 + PAGE - 2) // PAGE + 1)
        for size in sizes
    ]
    assert ended["a"].cache_bytes <= sum(n * g.bytes_per_block for n, g in zip(reach, groups, strict=True))
    assert ended["a"].cache_bytes < sum(-(-200 // PAGE) * group.bytes_per_block for group in groups)
