"""Values refuse what contradicts itself, and say it with both numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import config
from model.cache import cache_entry
from model.config import (
    Alibi,
    Architecture,
    Attention,
    Block,
    Buckets,
    Capacity,
    Chunk,
    ClampedGate,
    ConfigError,
    CrossAttention,
    Embedding,
    Encoder,
    FeedForward,
    Full,
    Grouped,
    Groups,
    Head,
    Indexer,
    Latent,
    Learned,
    LearnedDecay,
    LinearScaling,
    Llama3Scaling,
    MoE,
    Norm,
    ProportionalScaling,
    QKNorm,
    Rotary,
    Router,
    RouterLoss,
    Sinusoidal,
    Span,
    Temperature,
    Window,
    YarnScaling,
)

HEADS = Grouped(4, 2, 10)
FEED = FeedForward(8)
BLOCK = Block((FEED,))
CROSS = Block((Attention(HEADS), CrossAttention(HEADS)))

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Norm(eps=0), "eps must be positive, got 0"),
    (lambda: LinearScaling(0.0), "factor must be positive, got 0.0"),
    (lambda: YarnScaling(2.0, 0), "original_context must be positive, got 0"),
    (lambda: YarnScaling(2.0, 64, beta_fast=1, beta_slow=2), "beta_fast=1 must not be below beta_slow=2"),
    (lambda: Llama3Scaling(2.0, 64, 4.0, 3.0), "high_frequency=3.0 must not be below low_frequency=4.0"),
    (lambda: ProportionalScaling(-1.0), "factor must be positive, got -1.0"),
    (lambda: Rotary(theta=0), "theta must be positive, got 0"),
    (lambda: Rotary(fraction=1.1), "fraction must be in (0, 1], got 1.1"),
    (lambda: Rotary(fraction=0), "fraction must be in (0, 1], got 0"),
    (lambda: Alibi(0), "maximum must be positive, got 0"),
    (lambda: Buckets(32, 16), "distance=16 must exceed half of count=32"),
    (lambda: Learned(4, 4), "offset=4 must be in [0, rows=4)"),
    (lambda: Window(0), "size must be positive, got 0"),
    (lambda: Chunk(-1), "size must be positive, got -1"),
    (lambda: Grouped(6, 4, 10), "kv=4 does not divide query=6"),
    (lambda: Grouped(6, 0, 10), "kv must be positive, got 0"),
    (lambda: Grouped(4, 2, 10, clip=0.0), "clip must be positive, got 0.0"),
    (lambda: LearnedDecay(bound=0.0), "bound must be positive, got 0.0"),
    (lambda: LearnedDecay(discrete=True, bound=5.0), "discrete=true needs steps, which a decay with a bound has not"),
    (lambda: Latent(2, 8, 4, -1, 4), "rotary_dim must not be negative, got -1"),
    (lambda: Latent(2, 8, 4, 2, 4, query_rank=0), "query_rank must be positive, got 0"),
    (lambda: Temperature(0, 1), "floor must be positive, got 0"),
    (lambda: Temperature(1, 1, -1), "offset must not be negative, got -1"),
    (lambda: Attention(Grouped(1, 1, 9), Rotary()), "fraction=1.0 of dim=9 rotates 10 dimensions; it must be 2 to 9"),
    (lambda: Attention(Latent(2, 8, 4, 0, 4), Rotary()), "fraction=1.0 of dim=0 rotates 0 dimensions"),
    (lambda: Attention(HEADS, softcap=0.0), "softcap must be positive, got 0.0"),
    (lambda: Attention(HEADS, indexer=Indexer(1, 4, 4)), "indexer needs latent heads with a query_rank"),
    (
        lambda: Attention(Latent(2, 8, 4, 8, 4, query_rank=4), Rotary(), indexer=Indexer(1, 4, 4)),
        "indexer.dim=4 must be at least 8, as many dimensions as rotate",
    ),
    (lambda: CrossAttention(Grouped(4, 2, 10, clip=1.0)), "neither clip nor value_norm nor shared_value"),
    (lambda: CrossAttention(Grouped(4, 2, 10, qk_norm=QKNorm(over="width"))), "norms its heads one by one"),
    (lambda: ClampedGate(limit=0), "limit must be positive, got 0"),
    (lambda: FeedForward(0), "hidden must be positive, got 0"),
    (lambda: FeedForward(8, ClampedGate(), gated=False), "clamped_gate needs gated=true"),
    (lambda: Groups(2, 3), "kept=3 exceeds count=2"),
    (lambda: Capacity(0, 8), "factor must be positive, got 0"),
    (lambda: MoE(4, 5, FEED), "active=5 exceeds experts=4"),
    (lambda: MoE(4, 2, FEED, shared_gate=True), "shared_gate=true needs a shared expert"),
    (lambda: MoE(8, 2, FEED, Router(groups=Groups(3, 1))), "groups.count=3 does not divide experts=8"),
    (
        lambda: MoE(8, 5, FEED, Router(groups=Groups(4, 2))),
        "active=5 exceeds the 4 experts of the groups.kept=2",
    ),
    (lambda: MoE(8, 1, FEED, Router(capacity=Capacity(0.5, 8))), "capacity of experts=8 rounds to 0 tokens"),
    (lambda: Block(()), "branches must not be empty"),
    (lambda: Block((FEED,), shared_norm=True), "shared_norm=true needs parallel=true"),
    (lambda: Block((FEED,), placement="post", parallel=True), "parallel=true cannot have placement='post'"),
    (lambda: Encoder(()), "encoder.blocks must not be empty"),
    (lambda: Norm(offset=float("inf")), "offset must be from -1e+30 to 1e+30, got inf"),
    (lambda: Rotary(theta=1e31), "theta must be at most 1e+30, got 1e+31"),
    (lambda: YarnScaling(2.0, 64, magnitude=0.0), "magnitude must be positive, got 0.0"),
    (lambda: YarnScaling(2.0, 64, float("inf")), "beta_fast must be at most 1e+30, got inf"),
    (lambda: Llama3Scaling(2.0, 64, -4.0, 4.0), "low_frequency must be positive, got -4.0"),
    (lambda: Temperature(1, float("nan")), "weight must be from -1e+30 to 1e+30, got nan"),
    (lambda: Attention(HEADS, scale=-1.0), "scale must be positive, got -1.0"),
    (lambda: Attention(HEADS, scale=float("nan")), "scale must be positive, got nan"),
    (lambda: Attention(HEADS, softcap=float("inf")), "softcap must be at most 1e+30, got inf"),
    (lambda: CrossAttention(HEADS, scale=0.0), "scale must be positive, got 0.0"),
    (lambda: RouterLoss(jitter=7), "jitter must be from 0 to 1, got 7"),
    (lambda: RouterLoss(balance=-1), "balance must be from 0 to 1e+30, got -1"),
    (lambda: RouterLoss(z=float("nan")), "z must be from 0 to 1e+30, got nan"),
    (lambda: Router(scale=-2.5), "scale must be positive, got -2.5"),
    (lambda: Capacity(float("inf"), 8), "factor must be at most 1e+30, got inf"),
    (lambda: Block((FEED,), residual_scale=float("nan")), "residual_scale must be positive, got nan"),
    (lambda: Embedding(scale=-1.0), "scale must be positive, got -1.0"),
    (lambda: Head(softcap=0.0), "softcap must be positive, got 0.0"),
    (lambda: Head(softcap=-1.0), "softcap must be positive, got -1.0"),
    (lambda: Head(scale=float("inf")), "scale must be at most 1e+30, got inf"),
    (lambda: FeedForward(10**400), "hidden must be at most 1e+30, got 1000000"),
    (lambda: Encoder((CROSS,)), "an encoder has no memory for a cross_attention"),
    (lambda: Encoder((Block((Attention(HEADS, span=Window(3)),)),)), "its span cannot be Window(size=3)"),
    (lambda: Architecture(0, 8, 8, (BLOCK,)), "vocab must be positive, got 0"),
    (lambda: Architecture(8, 8, 8, ()), "blocks must not be empty"),
    (lambda: Architecture(8, 8, 8, (BLOCK,), Embedding(Learned(8, 2))), "context=8 exceeds the 6 learned positions"),
    (
        lambda: Architecture(8, 7, 8, (BLOCK,), Embedding(Sinusoidal())),
        "positions need an even width, got 7",
    ),
    (lambda: Architecture(8, 8, 8, (BLOCK,), Embedding(spare=2), head=Head(True)), "no room for spare=2"),
    (lambda: Architecture(8, 8, 8, (BLOCK,), encoder=Encoder((BLOCK,))), "an encoder needs a cross_attention"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_contradictions_are_refused_with_their_numbers(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value)


def test_not_a_number_is_never_positive() -> None:
    with pytest.raises(ConfigError, match="eps must be positive, got nan"):
        Norm(eps=float("nan"))


def test_values_hash_and_are_equal_by_content() -> None:
    one, other = (Block((Attention(Grouped(4, 2, 10), Rotary()), FeedForward(8))) for _ in range(2))
    assert one == other and len({one, other}) == 1
    assert Architecture(8, 8, 8, (one,)) == Architecture(8, 8, 8, (other,))


@given(st.sampled_from([Full(), Window(1), Window(5), Chunk(1), Chunk(7)]), st.integers(0, 100))
def test_the_first_visible_position_is_where_the_span_begins(span: Span, position: int) -> None:
    def sees(key: int) -> bool:
        match span:
            case Window(size):
                return position - key < size
            case Chunk(size):
                return key // size == position // size
        return True

    assert span.first_visible(position) == next(key for key in range(position + 1) if sees(key))
    seen = (at - span.first_visible(at) + 1 for at in range(position + 1))
    assert span.reach(position + 1) == max(seen)


def test_what_a_token_stores() -> None:
    """arXiv:2412.19437: DeepSeek-V3 keeps 512 + 64 numbers a layer; Llama 3 8B 2 * 8 * 128."""
    latent = cache_entry(Attention(Latent(128, 512, 128, 64, 128, 1536)))
    assert (latent.numbers, latent.heads, latent.key_dim, latent.value_dim) == (576, 1, 576, 512)
    assert cache_entry(Attention(Grouped(32, 8, 128))).numbers == 2048


def test_softmax_scale() -> None:
    assert Attention(Grouped(1, 1, 16)).softmax_scale == 0.25
    assert Attention(Latent(1, 8, 10, 6, 4)).softmax_scale == 0.25
    assert Attention(Grouped(1, 1, 16), scale=3.0).softmax_scale == 3.0


def test_layers_are_counted_in_order() -> None:
    mixture = MoE(2, 1, FEED)
    blocks = (Block((Attention(HEADS), FEED)), Block((mixture,)), Block((Attention(HEADS, span=Window(2)), mixture)))
    architecture = Architecture(8, 8, 8, blocks)
    assert [a.span for a in architecture.attentions] == [Full(), Window(2)]
    assert architecture.mixtures == ((1, mixture), (2, mixture))
    assert isinstance(architecture, config.Architecture)
