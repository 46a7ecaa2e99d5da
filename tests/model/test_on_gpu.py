"""Models on a CUDA GPU against the reference on the processor: `pytest -m gpu tests/model/test_on_gpu.py`."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import (
    Alibi,
    Architecture,
    Attention,
    Chunk,
    FeedForward,
    Full,
    Grouped,
    Latent,
    MoE,
    Rotary,
    Window,
)
from model.kernels import flex, paged, passes
from model.kernels.grouped import GroupedExperts
from model.kernels.paged import Pages, Scratch
from model.reference import logits_of
from model.transformer import Transformer
from server.engine.gpu import GpuRunner
from server.engine.request import Request, Sampling
from server.engine.runner import Room
from server.engine.step import Row, Step, StepResult
from tests.model.cases import block
from tests.model.randomise import random_model, random_tokens
from tests.model.recorded import overhear
from tests.model.served import HandEngine, Text
from tests.model.test_flex import SCORES, SIZE, TOTAL, pages, pools

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # the compiler's libraries have warnings of their own
    pytest.mark.timeout(600),
]
CARD = torch.device("cuda")
PAGE, WIDTH, VOCAB = 16, 64, 128
EXACT, ROUNDED = 1e-4, 4e-2  # of the largest logit: float32, bfloat16

HEADS = Grouped(4, 4, 32)
ATTENTION = Attention(HEADS, Rotary())
FEED = FeedForward(96)
MIXTURE = MoE(8, 2, FeedForward(48))


def stack(*branches: Any) -> Architecture:
    return Architecture(VOCAB, WIDTH, 256, (block(*branches),) * 2)


def attending(**more: Any) -> Architecture:
    return stack(replace(ATTENTION, **more), FEED)


CASES = {
    "dense": stack(ATTENTION, FEED),
    "grouped-query, groups of three": attending(heads=Grouped(6, 2, 32)),
    "multi-query": attending(heads=Grouped(4, 1, 64)),
    "latent": attending(heads=Latent(4, 48, 32, 16, 32)),
    "window": attending(span=Window(20)),
    "chunk": attending(span=Chunk(24)),
    "window beside full": Architecture(
        VOCAB, WIDTH, 256, tuple(block(replace(ATTENTION, span=span), FEED) for span in (Window(20), Full()))
    ),
    "alibi": attending(position=Alibi()),
    "softcap and sinks": attending(softcap=5.0, sinks=True),
    "experts": stack(ATTENTION, MIXTURE),
    "experts with biases": stack(ATTENTION, replace(MIXTURE, expert=FeedForward(48, bias=True))),
    "heads too small for a kernel": attending(heads=Grouped(4, 2, 8)),
}
ARCHITECTURES = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES.keys())


class CardEngine(HandEngine):
    """Hand-driven over a GPU's runner; `captured` says whether it replays."""

    runner: GpuRunner

    def __init__(self, model: Transformer, captured: bool) -> None:
        super().__init__(model, page_size=PAGE)
        self.runner = GpuRunner(model, Room(400, 3, 60, PAGE))
        self.free = [list(range(1, group.num_blocks)) for group in self.runner.groups]
        if captured:
            list(self.runner.capture())

    def _run(self, step: Step) -> tuple[Tensor, StepResult]:
        logits, result = overhear(self.runner, step)
        return logits.cpu(), result


@functools.cache
def expected(architecture: Architecture, seed: int, length: int) -> tuple[tuple[int, ...], Tensor]:
    tokens = random_tokens(architecture, length, seed)
    return tokens, logits_of(random_model(architecture), tokens)[0]


def on_gpu(architecture: Architecture, dtype: torch.dtype = torch.float32) -> Transformer:
    model = random_model(architecture).to(CARD)
    for parameter in model.parameters():  # what is no parameter stays exact
        parameter.data = parameter.data.to(dtype)
    return passes.apply(model)


def assert_near(text: Text, logits: Tensor, tolerance: float) -> None:
    assert len(text.tokens) - 1 in text.logits
    for position, found in text.logits.items():
        for row in found:
            assert float((row - logits[position]).abs().max() / logits.abs().max()) <= tolerance


@pytest.mark.parametrize("captured", [True, False], ids=["captured", "eager"])
@ARCHITECTURES
def test_it_says_what_the_processor_says(architecture: Architecture, captured: bool) -> None:
    """Prompts cut into pieces, then single tokens of three texts together, the last one joining late."""
    engine = CardEngine(on_gpu(architecture), captured)
    small = min(entry.key_dim for entry in engine.runner.cache.entries) < flex.LEAST
    assert engine.runner.captured == ((1, 2, 3) if captured and not small else ())
    texts = [(engine.add(expected(architecture, i, n)[0], prompt=n - 9), i, n) for i, n in enumerate((60, 33, 21))]
    engine.step([(texts[0][0], 40)])
    engine.step([(texts[0][0], 11), (texts[1][0], 24)])
    for _ in range(3):
        engine.step([(texts[0][0], 1), (texts[1][0], 1)])
    engine.step([(texts[2][0], 12), (texts[0][0], 1)])
    while waiting := [text for text, _, _ in texts if not text.done]:
        engine.step((text, 1) for text in waiting)
    for text, seed, length in texts:
        assert_near(text, expected(architecture, seed, length)[1], EXACT)


@pytest.mark.parametrize("name", ["dense", "grouped-query, groups of three", "latent", "window", "experts"])
def test_in_bfloat16_it_is_near(name: str) -> None:
    """With experts, rounding turns some choices around, and what follows is another answer: most must be near."""
    architecture = CASES[name]
    tokens, logits = expected(architecture, 0, 40)
    engine = CardEngine(on_gpu(architecture, torch.bfloat16), captured=True)
    if name == "experts":
        assert any(isinstance(m, GroupedExperts) and m.fused for m in engine.runner.model.modules())
    text = engine.add(tokens, prompt=30)
    engine.step([(text, 30)])
    while not text.done:
        engine.step([(text, 1)])
    apart = {p: float((rows[0] - logits[p]).abs().max() / logits.abs().max()) for p, rows in text.logits.items()}
    near = sum(distance <= ROUNDED for distance in apart.values())
    assert near >= (0.7 if name == "experts" else 1.0) * len(apart), apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES.keys())
@pytest.mark.parametrize("span", [Full(), Window(20), Chunk(24)], ids=lambda span: type(span).__name__)
def test_the_compiled_kernel_is_the_plain_path(span: Any, scores: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    seen, (keys, values) = pages(span), pools(2, 32, 32)
    query = torch.randn(len(seen.table), 6, 32)
    wanted = paged.plain(query, keys, values, 32, seen, scores, Scratch())
    there = Pages(span, SIZE, *(x.to(CARD) for x in (seen.table, seen.starts, seen.first, seen.last)))
    tensors = {k: getattr(scores, k) for k in ("slopes", "sinks")}
    moved = replace(scores, **{k: None if t is None else t.to(CARD) for k, t in tensors.items()})
    with torch.inference_mode():
        found = flex.decode(query.to(CARD, dtype), keys.to(CARD, dtype), values.to(CARD, dtype), 32, there, moved)
    assert len(keys) == TOTAL
    assert torch.allclose(found.float().cpu(), wanted, atol=1e-4 if dtype == torch.float32 else 3e-2)


@pytest.fixture
def watched() -> Iterator[None]:
    """Whoever makes the host wait gets an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("captured", [True, False], ids=["captured", "eager"])
@pytest.mark.parametrize("name", ["dense", "latent", "window beside full", "experts"])
def test_the_host_does_not_wait_before_the_end_of_a_step(name: str, captured: bool, request: Any) -> None:
    runner = GpuRunner(on_gpu(CASES[name], torch.bfloat16), Room(400, 3, 60, PAGE))
    if captured:
        list(runner.capture())
    how = ({"temperature": 0.0}, {"seed": 1, "top_p": 0.9, "logprobs": 3}, {"seed": 2, "presence_penalty": 0.4})
    rows = []
    for i, sampling in enumerate(how):
        asked = Request(str(i), (1, 2, 3), Sampling(9, **sampling), 0.0, outputs=[4, 5])
        tables = tuple((1 + i,) for _ in runner.groups)
        rows.append(Row(asked, 4, 1, tables))
    first = Step(0, tuple(row._replace(start=0, count=4) for row in rows))
    runner.run(first)
    runner.run(Step(1, tuple(rows)))  # whatever is compiled at first use
    request.getfixturevalue("watched")
    result = runner.run(Step(2, tuple(rows)))
    assert len(result.tokens) == 3 and not result.failed and 0 < result.forward_seconds < 1


def test_a_fault_that_the_gpu_does_not_recover_from_is_told_apart() -> None:
    """In a process of its own: the GPU's context is gone afterwards."""
    done = subprocess.run([sys.executable, "-m", "tests.model.lose_a_gpu"], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("lost"), done.stderr[-2000:]
