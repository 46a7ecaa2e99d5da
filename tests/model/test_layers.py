"""Blocks joined into one call give, to the last bit, what they give one after another, and what the reference gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import (
    Alibi,
    Architecture,
    Attention,
    Block,
    Chunk,
    FeedForward,
    Full,
    Grouped,
    MoE,
    Norm,
    QKNorm,
    Rotary,
    Window,
)
from model.dense import dense_input
from model.kernels import fused, layers, native, passes
from model.kernels.layers import Layers
from model.transformer import Transformer
from tests.model.cases import block
from tests.model.parity import TEXTS, assert_texts, prepared
from tests.model.randomise import random_model
from tests.model.served import HandEngine

pytestmark = pytest.mark.skipif(not native.linear_types(), reason="no vector units or no compiler here")
ATTENTION, FEED = Attention(Grouped(4, 2, 16), Rotary()), FeedForward(96)
MIXTURE = MoE(4, 2, FeedForward(48))


def stack(*blocks: Block) -> Architecture:
    return Architecture(61, 64, 64, blocks)


def attending(**more: Any) -> Block:
    return block(replace(ATTENTION, **more), FEED)


PLAIN = attending()
CASES = {
    "dense": stack(PLAIN, PLAIN, PLAIN),
    "spans and tables of their own": stack(
        attending(span=Window(5)), attending(position=Rotary(theta=500.0)), attending(span=Chunk(4)), PLAIN
    ),
    "heads of unlike number": stack(attending(heads=Grouped(8, 1, 16)), attending(heads=Grouped(2, 2, 48)), PLAIN),
    "alibi, sinks, soft caps": stack(attending(position=Alibi(), sinks=True), attending(softcap=2.0), PLAIN),
    "norms, biases, not gated": stack(
        attending(heads=replace(ATTENTION.heads, qk_norm=QKNorm(Norm()), bias=True), out_bias=True),
        block(ATTENTION, FeedForward(80, "relu2", gated=False, bias=True)),
    ),
    "mixtures between": stack(PLAIN, PLAIN, block(ATTENTION, MIXTURE), PLAIN, block(ATTENTION, MIXTURE), PLAIN, PLAIN),
}
JOINED = {"dense": [3], "mixtures between": [2, 2]}
ARCHITECTURES = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES.keys())


def runs(model: Transformer) -> list[int]:
    return [len(module.blocks) for module in model.blocks if isinstance(module, Layers)]


def serve(model: Transformer, architecture: Architecture) -> HandEngine:
    engine = HandEngine(model, seed=3)
    for tokens, (_, prompt) in zip(prepared(architecture)[1], TEXTS, strict=True):
        engine.add(tokens, prompt)
    engine.finish()
    return engine


@ARCHITECTURES
def test_served_they_are_the_reference(architecture: Architecture) -> None:
    model = passes.apply(random_model(architecture))
    assert runs(model)
    assert_texts(serve(model, architecture), architecture)


@pytest.mark.parametrize("dtype", sorted(native.linear_types(), key=str), ids=str)
@ARCHITECTURES
def test_joined_or_not_is_the_same_to_the_bit(
    architecture: Architecture, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = passes.apply(random_model(architecture).to(dtype))
    monkeypatch.setattr(layers, "join", lambda model: 0)
    apart = passes.apply(random_model(architecture).to(dtype))
    assert runs(joined) and not runs(apart)
    found, expected = (serve(model, architecture) for model in (joined, apart))
    for text, other in zip(found.texts, expected.texts, strict=True):
        assert text.logits.keys() == other.logits.keys()
        for position, rows in text.logits.items():
            assert all(torch.equal(*pair) for pair in zip(rows, other.logits[position], strict=True))


@pytest.mark.parametrize("name", JOINED)
def test_only_dense_neighbours_are_joined(name: str) -> None:
    model = random_model(CASES[name])
    assert fused.fuse(model) == len(CASES[name].blocks)
    assert layers.join(model) == sum(JOINED[name]) and runs(model) == JOINED[name]
    alone = random_model(CASES[name])
    assert layers.join(alone) == 0 and len(alone.blocks) == len(CASES[name].blocks)


def test_a_cache_that_tells_no_places_is_asked_layer_by_layer() -> None:
    """As in training's dense view; what came in is left as it was."""
    architecture = CASES["dense"]
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(0))
    plain, fast = random_model(architecture), passes.apply(random_model(architecture))
    expected, found = (model(dense_input(architecture, tokens)).logits for model in (plain, fast))
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_a_model_of_full_spans_needs_one_call() -> None:
    model = passes.apply(random_model(CASES["dense"]))
    assert len(model.blocks) == 1 and all(isinstance(a.span, Full) for a in CASES["dense"].attentions)
