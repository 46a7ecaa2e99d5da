"""Whole blocks, turned heads and mixtures against the plain modules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import Surroundings
from model.config import (
    Alibi,
    Architecture,
    Attention,
    Block,
    FeedForward,
    Grouped,
    Latent,
    MoE,
    Norm,
    QKNorm,
    Rotary,
    Router,
)
from model.kernels.attention import Scores
from model.kernels.gpu import blocks, experts
from model.kernels.gpu.blocks import GpuBlock
from model.kernels.gpu.linear import Gain
from tests.model.cases import block
from tests.model.gpu import DEVICE, TYPES, draw, near
from tests.model.randomise import random_model

WIDTH = 64
ATTENTION, FEED = Attention(Grouped(6, 2, 32), Rotary()), FeedForward(96)
MIXTURE = MoE(6, 2, FeedForward(48))
NORMED = QKNorm(Norm(offset=1.0))


class Looks:
    """A cache in which every token sees itself, its key and its query mixed in so that all three count."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
        return value * (1 + (query * key).sum(-1, keepdim=True) * scores.scale)


def with_heads(**more: Any) -> Attention:
    return replace(ATTENTION, heads=replace(ATTENTION.heads, **more))


def routed(**more: Any) -> MoE:
    return replace(MIXTURE, router=Router(**more))


SHAPES = {
    "dense": (ATTENTION, FEED),
    "part of a head turned": (replace(ATTENTION, position=Rotary(fraction=0.5)), FEED),
    "neighbours turned": (replace(ATTENTION, position=Rotary(layout="interleaved")), FEED),
    "not turned": (replace(ATTENTION, position=Alibi()), FEED),
    "heads normed": (with_heads(qk_norm=NORMED), FEED),
    "heads normed, not turned": (replace(with_heads(qk_norm=NORMED), position=Alibi()), FEED),
    "biases": (replace(with_heads(bias=True), out_bias=True), replace(FEED, bias=True)),
    "not gated": (ATTENTION, FeedForward(96, "gelu", gated=False)),
    "experts": (ATTENTION, MIXTURE),
    "one expert of one": (ATTENTION, MoE(1, 1, FeedForward(48))),
    "all experts": (ATTENTION, MoE(3, 3, FeedForward(48, "relu2", gated=False, bias=True))),
    "sigmoid, corrected": (ATTENTION, routed(score="sigmoid", correction=True, scale=2.5)),
    "not normalised, biased": (ATTENTION, routed(score="sqrtsoftplus", bias=True, normalise=False)),
    "shared expert": (ATTENTION, replace(MIXTURE, shared=FeedForward(32), shared_gate=True)),
}


def pair(
    branches: tuple[Any, ...], dtype: torch.dtype, tokens: int = 7
) -> tuple[Any, Any, tuple[tuple[Tensor, Tensor], ...]]:
    """A block, what stands in for it, and what its tables say of the first positions."""
    model = random_model(Architecture(32, WIDTH, 64, (block(*branches),))).to(DEVICE)
    positions = torch.arange(3, 3 + tokens, device=DEVICE)
    turns = tuple(table(positions, dtype) for table in model.tables)
    plain = model.blocks[0].to(dtype)
    return plain, GpuBlock(plain), turns


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("branches", SHAPES.values(), ids=SHAPES.keys())
def test_a_block_is_the_plain_one(branches: tuple[Any, ...], dtype: torch.dtype, tokens: int) -> None:
    torch.manual_seed(0)
    plain, fast, turns = pair(branches, dtype, tokens)
    assert blocks.fits(plain) and not blocks.fits(fast)
    around = Surroundings(torch.arange(tokens, device=DEVICE), Looks(), turns)  # type: ignore[arg-type]
    x = draw(tokens, WIDTH, dtype=dtype)
    with torch.inference_mode():
        (expected, routings), (found, again) = plain(x, around, None), fast(x, around, None)
    if dtype == torch.float32 or not routings:  # rounded, some choices turn around
        assert near(found, expected)
    for ours, theirs in zip(again, routings, strict=True):
        assert ours.experts.dtype == torch.int64 and ours.experts.shape == theirs.experts.shape
        for name in ("gates", "logits", "ranked"):
            assert getattr(ours, name).dtype == torch.float32
        if dtype == torch.float32:
            assert torch.equal(ours.experts, theirs.experts)
            assert near(ours.gates, theirs.gates) and near(ours.logits, theirs.logits)
            assert near(ours.ranked, theirs.ranked)


def test_many_tokens_take_the_plain_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FEW", 6)
    plain, fast, turns = pair(SHAPES["dense"], torch.float32)
    around = Surroundings(torch.arange(3, 10, device=DEVICE), Looks(), turns)  # type: ignore[arg-type]
    x = draw(7, WIDTH)
    with torch.inference_mode():
        assert torch.equal(fast(x, around, None)[0], plain(x, around, None)[0])


@pytest.mark.parametrize(
    "value",
    [
        block(Attention(Latent(4, 48, 32, 16, 32), Rotary()), FEED),
        replace(block(ATTENTION, FEED), parallel=True),
        replace(block(ATTENTION, FEED), norm=Norm("layer")),
        block(with_heads(clip=3.0), FEED),
        block(ATTENTION, replace(MIXTURE, weigh="input")),
    ],
    ids=["latent", "parallel", "layer norm", "clipped", "weighed before"],
)
def test_other_blocks_are_left_alone(value: Block) -> None:
    model = random_model(Architecture(32, WIDTH, 64, (value,)))
    assert not blocks.fits(model.blocks[0])
    assert blocks.build(model) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy
def test_a_row_of_numbers_that_are_none_chooses_experts_that_are_there() -> None:
    model = random_model(Architecture(32, WIDTH, 64, (block(ATTENTION, MIXTURE),))).to(DEVICE)
    mixture = model.blocks[0].branches[1]
    x = draw(3, WIDTH)
    x[1, 5] = torch.nan
    _, routing = experts.choose(x, mixture.router, Gain(None, 0.0, 1e-6))
    assert ((routing.experts >= 0) & (routing.experts < MIXTURE.experts)).all()
    assert routing.gates[[0, 2]].isfinite().all() and routing.logits[1].isnan().all()
