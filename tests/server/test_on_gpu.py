"""A whole server on a CUDA GPU: `python -m pytest -m gpu tests/server/test_on_gpu.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import torch

from client.api import Answer, GenerateRequest, RoutingDetail, Sampling, collect
from client.connect import connect
from client.launch import ServerProcess

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.timeout(900),
]
MODELS = ("tales-dense", "tales-moe")
PROMPTS = ("Once upon a time", "The old king said to his daughter", "In a dark wood there lived a fox who")


@pytest.fixture(params=MODELS)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """The same model on the GPU and on the processor, float32."""
    flags = ["--model", f"m={request.param}", "--no-measure-machine", "--cache-tokens", "8192"]
    async with (
        ServerProcess([*flags, "--device", "cuda"], ready_seconds=800) as gpu,
        ServerProcess(flags) as processor,
    ):
        yield gpu, processor


async def said(target: str, prompt: str, **how: float) -> Answer:
    sampling = Sampling(max_tokens=48, seed=7, **how)  # type: ignore[arg-type]
    async with connect(target) as client:
        return await collect(client.generate(GenerateRequest(prompt, "m", sampling, routing=RoutingDetail.LAYERS)))


async def test_both_transports_say_what_the_processor_says(pair: tuple[ServerProcess, ServerProcess]) -> None:
    """Greedy and drawn, in float32: a trained model's best two logits are seldom as close as rounding."""
    gpu, processor = pair
    same, answers = 0, 0
    for prompt in PROMPTS:
        for temperature in (0.0, 0.8):
            expected = (await said(processor.http, prompt, temperature=temperature)).choices[0]
            for target in (gpu.http, gpu.grpc):
                found = (await said(target, prompt, temperature=temperature)).choices[0]
                assert found.facts.usage.completion_tokens > 0
                assert (found.facts.routing is None) == (expected.facts.routing is None)
                same += found.text == expected.text
                answers += 1
    assert same >= answers - 2, f"{same} of {answers} answers are the same"


async def test_it_drains_and_ends_with_0(pair: tuple[ServerProcess, ServerProcess]) -> None:
    gpu, _ = pair
    await said(gpu.http, PROMPTS[0], temperature=0.0)
    assert gpu.stop() == 0
