"""Whatever a block is made of: what the compiled kernels make of it is what the plain model gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import config
from model.config import Architecture, Attention, Block, FeedForward, MoE, Norm
from model.dense import dense_input
from model.kernels import native, passes
from model.kernels.fused import FusedBlock
from model.kernels.layers import Layers
from model.transformer import Transformer
from tests.model.randomise import random_model, random_tokens
from tests.model.served import HandEngine

pytestmark = pytest.mark.skipif(not native.linear_types(), reason="no vector units or no compiler here")


sixteens = st.integers(1, 4).map(lambda n: 16 * n)
maybe = st.booleans()
norms = st.builds(
    Norm,
    kind=st.sampled_from(["rms", "layer"]),
    eps=st.just(1e-5),
    weight=maybe,
    bias=maybe,
    offset=st.sampled_from([0.0, 1.0]),
)


@st.composite
def grouped(draw: st.DrawFn) -> config.Grouped:
    kv = draw(st.integers(1, 3))
    return config.Grouped(
        kv * draw(st.integers(1, 3)),
        kv,
        draw(sixteens),
        bias=draw(maybe),
        qk_norm=draw(
            st.none()
            | st.builds(config.QKNorm, norms, st.sampled_from(["head", "each", "width"]), after_rotation=maybe)
        ),
        clip=draw(st.none() | st.just(0.7)),
        shared_value=draw(maybe),
        value_norm=draw(st.none() | norms),
    )


latent = st.builds(
    config.Latent,
    query=st.integers(1, 5),
    kv_rank=sixteens,
    plain_dim=sixteens,
    rotary_dim=sixteens | st.just(0),
    value_dim=sixteens,
    query_rank=st.none() | sixteens,
    norm=norms,
    bias=maybe,
)


@st.composite
def attention(draw: st.DrawFn) -> Attention:
    heads = draw(grouped() | latent)
    turns = not isinstance(heads, config.Latent) or heads.rotary_dim
    rotary = st.builds(
        config.Rotary, layout=st.sampled_from(["half", "interleaved"]), fraction=st.sampled_from([1.0, 0.5])
    )
    return Attention(
        heads,
        draw(st.sampled_from([None, config.Alibi()]) | (rotary if turns else st.none())),
        draw(st.sampled_from([config.Full(), config.Window(5), config.Chunk(4)])),
        softcap=draw(st.sampled_from([None, 3.0])),
        sinks=draw(maybe),
        gate=draw(st.none() | st.builds(config.OutputGate, st.sampled_from(["head", "element"]), maybe)),
        temperature=draw(st.none() | st.builds(config.Temperature, st.just(3.0), st.just(0.2), st.integers(0, 1))),
        out_bias=draw(maybe),
    )


activations = st.sampled_from(["relu", "relu2", "gelu", "gelu_tanh", "silu"])
clamped = st.just(config.ClampedGate(0.8, 1.7))
feeds = st.builds(FeedForward, sixteens, activations, gated=maybe, bias=maybe) | st.builds(
    FeedForward, sixteens, clamped, bias=maybe
)


@st.composite
def mixture(draw: st.DrawFn) -> MoE:
    score = draw(st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus", config.SparseMixer(0.5)]))
    scores = isinstance(score, str)
    shared, groups = draw(st.none() | feeds), draw(st.sampled_from([None, config.Groups(3, 2)])) if scores else None
    router = config.Router(
        score,
        normalise=draw(maybe),
        scale=draw(st.sampled_from([1.0, 2.5])),
        bias=draw(maybe),
        correction=scores and draw(maybe),
        expert_gain=draw(maybe),
        groups=groups,
    )
    weigh: Any = draw(st.sampled_from(["output", "input"]))
    gate = shared is not None and draw(maybe)
    return MoE(6, draw(st.integers(1, 3)), draw(feeds), router, shared, shared_gate=gate, weigh=weigh)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    placement: Any = draw(st.sampled_from(["pre", "post", "output", "sandwich"]))
    parallel = placement != "post" and draw(maybe)
    return Block(
        (draw(attention()), draw(feeds | mixture())),
        draw(norms),
        placement,
        parallel,
        shared_norm=parallel and draw(maybe),
        residual_scale=draw(st.sampled_from([1.0, 0.4])),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(blocks(), min_size=1, max_size=3), sixteens)
def test_any_block_gives_what_the_plain_one_gives(stack: list[Block], width: int) -> None:
    """Through a dense view, block after block; and served in pieces, all blocks in one call, however many threads."""
    architecture = Architecture(61, width, 64, tuple(stack))
    plain, fast = random_model(architecture), passes.apply(random_model(architecture))
    assert all(isinstance(block, Layers | FusedBlock) for block in fast.blocks)
    tokens = random_tokens(architecture, 21, seed=0)
    with torch.inference_mode():
        inputs = dense_input(architecture, torch.tensor([tokens]))
        expected, found = plain(inputs).logits, fast(inputs).logits
    most = 2e-4 * float(expected.abs().max())
    assert (found - expected).abs().max() <= most
    alone, shared = served(fast, tokens, 1), served(fast, tokens, 3)
    assert len(tokens) - 1 in alone
    for position, rows in alone.items():
        assert all((row - expected[position]).abs().max() <= most for row in rows)
        assert all(map(torch.equal, rows, shared[position]))


def served(model: Transformer, tokens: tuple[int, ...], threads: int) -> dict[int, list[Tensor]]:
    """The logits of a text by position, its prompt cut anywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    engine = HandEngine(model)
    engine.add(tokens, 15)
    engine.finish()
    torch.set_num_threads(before)
    return engine.texts[0].logits
