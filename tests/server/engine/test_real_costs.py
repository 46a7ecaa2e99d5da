"""The accounts of real models: work by the closed formulas, margins by the routers themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import presets
from model.dense import dense_input, dense_memory
from model.initialise import random_model
from model.operations import encoding_flops, flops
from model.parameters import parameters
from server.engine.engine import Engine
from server.engine.runner import ModelRunner, Room
from tests.fakes import Recorder, make_request

PROMPT = (5, 9, 2, 7, 7, 3, 11, 4, 8, 6, 1)


def served(name: str, **request: object) -> tuple[ModelRunner, Recorder, list[int]]:
    """A request of a tiny preset, computed alone: the runner, what was seen of it, its outputs."""
    architecture = presets.scaled(presets.load(name), "tiny")
    model = random_model(architecture, 0).eval().requires_grad_(False)
    runner, seen = ModelRunner(model, Room(256, 2, 8, 4)), Recorder()
    engine, asked = Engine("m", runner, observer=seen, max_batch_tokens=8), make_request(PROMPT, 6, **request)
    engine.add(asked)
    while engine.has_work:
        engine.step()
    assert [stats.outcome for stats in seen.requests] == ["length"], seen.requests
    return runner, seen, asked.outputs


@pytest.mark.parametrize("name", ["mistral-7b", "deepseek-v3", "gpt-oss-120b", "llama-4-scout", "gemma-4-26b-a4b"])
def test_work_and_margins_of_a_request(name: str) -> None:
    runner, seen, outputs = served(name)
    [stats] = seen.requests
    architecture, tokens = runner.model.architecture, [*PROMPT, *outputs[:-1]]
    whole = flops(architecture, 0, len(tokens))
    logits = stats.steps  # one row a step, whose last token has logits
    assert stats.compute.operations.total == whole.total - whole.head // len(tokens) * (len(tokens) - logits)
    assert stats.compute.passes == stats.steps and stats.compute.tokens == len(tokens)
    counted = parameters(architecture)
    assert counted.active <= stats.compute.parameters <= counted.total
    with torch.no_grad():
        routings = runner.model(dense_input(architecture, torch.tensor([tokens]))).routings
    assert len(routings) == len(stats.routing)
    for layer, routing in zip(stats.routing, routings, strict=True):
        expected = (routing.ranked[:, -2] - routing.ranked[:, -1]).mean().item()
        assert layer.margin == pytest.approx(expected, abs=1e-5) and layer.margin > 0


@pytest.mark.parametrize("name", ["transformer", "switch-base-8"])
def test_an_encoder_is_charged_to_whose_source_it_read(name: str) -> None:
    """Of its routed experts those that the source went to."""
    source = (3, 1, 4, 1, 5)
    runner, seen, outputs = served(name, source=source)
    [stats], architecture, costs = seen.requests, runner.model.architecture, runner.costs
    tokens = len(PROMPT) + len(outputs) - 1
    decoding = flops(architecture, 0, tokens, memory=5)
    spared = decoding.head // tokens * (tokens - stats.steps)
    expected = decoding.total - spared + encoding_flops(architecture, 5).total
    assert stats.compute.operations.total == expected
    with torch.no_grad():
        routings = dense_memory(runner.model, torch.tensor([source])).routings
    touched = [len({expert for expert in routing.experts.flatten().tolist() if expert >= 0}) for routing in routings]
    once = costs.encoder + 5 * costs.row + sum(n * size for n, size in zip(touched, costs.encoder_experts, strict=True))
    decoded = stats.steps * costs.weights + tokens * costs.row
    decoded += sum(int(step.distinct_experts @ np.array(costs.experts, np.int64)) for step in seen.steps)
    assert stats.compute.weight_bytes == decoded + once
    used = [sum(count > 0 for count in layer.expert_tokens) for layer in stats.routing]
    assert stats.compute.parameters == costs.touched(used, touched)
    assert (stats.compute.parameters < parameters(architecture).total) == (name == "switch-base-8")
    assert stats.compute.cache_written_bytes == tokens * costs.entry + 5 * costs.state
    assert costs.encoder > 0 and costs.state > 0
