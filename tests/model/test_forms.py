"""Whatever a block is made of: what the compiled kernels make of it is what the plain model gives."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import config
from model.config import Architecture, Attention, Block, FeedForward, MoE, Norm
from model.dense import dense_input
from model.kernels import native, panels, passes
from model.kernels.fused import FusedBlock
from model.kernels.layers import Layers
from model.transformer import Transformer
from tests.model.randomise import random_model, random_tokens, rounded
from tests.model.served import HandEngine

TYPES = sorted(native.linear_types(), key=str) or [torch.float32]
pytestmark = pytest.mark.skipif(not native.linear_types(), reason="no vector units or no compiler here")


sixteens = st.integers(1, 4).map(lambda n: 16 * n)
maybe = st.booleans()
forms = st.sampled_from(get_args(panels.Form))
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
    indexer = None
    if isinstance(heads, config.Latent) and heads.query_rank is not None and draw(maybe):
        indexer = config.Indexer(draw(st.integers(1, 5)), heads.rotary_dim + draw(sixteens), draw(st.integers(1, 9)))
    return Attention(
        heads,
        draw(st.sampled_from([None, config.Alibi()]) | (rotary if turns else st.none())),
        draw(st.sampled_from([config.Full(), config.Window(5), config.Chunk(4)])),
        softcap=draw(st.sampled_from([None, 3.0])),
        sinks=draw(maybe),
        gate=draw(st.none() | st.builds(config.OutputGate, st.sampled_from(["head", "element"]), maybe)),
        temperature=draw(st.none() | st.builds(config.Temperature, st.just(3.0), st.just(0.2), st.integers(0, 1))),
        out_bias=draw(maybe),
        scale=draw(st.sampled_from([None, 0.3])),
        indexer=indexer,
    )


@st.composite
def recurrent(draw: st.DrawFn) -> config.Recurrent:
    keys, over = draw(st.integers(1, 3)), draw(st.sampled_from(["head", "key"]))
    discrete = over == "head" and draw(maybe)
    bound = None if discrete else draw(st.sampled_from([None, 2.5]))
    learned = config.LearnedDecay(over, draw(st.none() | sixteens), discrete, bound)
    gate = st.builds(config.StateGate, st.sampled_from(["silu", "sigmoid"]), st.none() | sixteens, maybe)
    return config.Recurrent(
        keys * draw(st.integers(1, 3)),
        draw(sixteens),
        draw(sixteens | st.just(80)),
        keys,
        rule=draw(st.sampled_from(["add", "delta"])),
        decay=draw(st.just(learned) | st.just(config.FixedDecay(0.7))),
        convolution=draw(st.none() | st.builds(config.Convolution, st.integers(2, 5), maybe)),
        gate=draw(st.none() | gate),
        norm=draw(st.builds(Norm, eps=st.just(1e-5), offset=st.sampled_from([0.0, 1.0]))),
        norm_over=draw(st.sampled_from(["head", "key_head", "all"])),
        skip=draw(maybe),
    )


activations = st.sampled_from(["relu", "relu2", "gelu", "gelu_tanh", "silu"])
clamped = st.just(config.ClampedGate(0.8, 1.7))
feeds = st.builds(FeedForward, sixteens, activations, gated=maybe, bias=maybe) | st.builds(
    FeedForward, sixteens, clamped, bias=maybe
)


groups = st.none() | st.builds(config.Groups, st.just(3), st.just(2), st.sampled_from(["max", "top2"]))


@st.composite
def mixture(draw: st.DrawFn) -> MoE:
    score = draw(st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus", config.SparseMixer(0.5)]))
    scores = isinstance(score, str)
    shared = draw(st.none() | feeds)
    router = config.Router(
        score,
        normalise=draw(maybe),
        scale=draw(st.sampled_from([1.0, 2.5])),
        bias=draw(maybe),
        correction=scores and draw(maybe),
        expert_gain=draw(maybe),
        norm=draw(st.none() | norms),
        groups=draw(groups) if scores else None,
        capacity=draw(st.none() | st.just(config.Capacity(1.5, 20))),
    )
    weigh: Any = draw(st.sampled_from(["output", "input"]))
    gate = shared is not None and draw(maybe)
    return MoE(6, draw(st.integers(1, 3)), draw(feeds), router, shared, shared_gate=gate, weigh=weigh)


@st.composite
def beside(draw: st.DrawFn) -> config.Beside:
    mixed = draw(mixture())
    return config.Beside(draw(feeds), replace(mixed, shared=None, shared_gate=False), draw(norms))


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    placement: Any = draw(st.sampled_from(["pre", "post", "output", "sandwich"]))
    parallel = placement != "post" and draw(maybe)
    both = draw(attention() | recurrent()), draw(feeds | mixture() | beside())
    return Block(
        draw(st.sampled_from([both, both, both, both[:1], both[1:]])),
        draw(norms),
        placement,
        parallel,
        shared_norm=parallel and draw(maybe),
        residual_scale=draw(st.sampled_from([1.0, 0.4])),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(blocks(), min_size=1, max_size=3), sixteens, forms, st.sampled_from(TYPES), st.sampled_from([4, 16]))
def test_any_block_gives_what_the_plain_one_gives(
    stack: list[Block], width: int, form: panels.Form, dtype: torch.dtype, page_size: int
) -> None:
    """Through a dense view, block after block; and served in pieces, all blocks in one call, however many threads."""
    architecture = Architecture(61, width, 64, tuple(stack))
    plain = random_model(architecture)
    fast = passes.apply(rounded(random_model(architecture), dtype), form=form)
    assert all(isinstance(block, Layers | FusedBlock) for block in fast.blocks)
    tokens = random_tokens(architecture, 21, seed=0)
    alone, shared = (served(fast, tokens, page_size, threads) for threads in (1, 3))
    assert len(tokens) - 1 in alone
    for position, rows in alone.items():
        assert all(map(torch.equal, rows, shared[position]))
    if dtype != torch.float32 or form not in ("lossless", "whole"):
        return  # experts may be chosen otherwise
    with torch.inference_mode():
        inputs = dense_input(architecture, torch.tensor([tokens]))
        expected, found = plain(inputs).logits, fast(inputs).logits
    most = 2e-4 * float(expected.abs().max())
    assert (found - expected).abs().max() <= most
    for position, rows in alone.items():
        assert all((row - expected[position]).abs().max() <= most for row in rows)


TAKEN = {  # by the kernels, and drawn above; but what stands behind the bar, which they leave to the plain model
    config.Block: "branches norm placement parallel shared_norm residual_scale | gated",
    config.Attention: "heads position span softcap sinks temperature gate out_bias scale indexer",
    config.Grouped: "query kv dim bias qk_norm clip shared_value value_norm",
    config.Latent: "query kv_rank plain_dim rotary_dim value_dim query_rank norm bias",
    config.Indexer: "heads dim top_k",
    config.QKNorm: "norm over after_rotation",
    config.Norm: "kind eps weight bias offset",
    config.OutputGate: "over bias",
    config.Temperature: "floor weight offset",
    config.Recurrent: "heads key_dim value_dim key_heads rule decay convolution gate norm norm_over skip",
    config.LearnedDecay: "over rank discrete bound",
    config.FixedDecay: "scale",
    config.Convolution: "width bias",
    config.StateGate: "activation rank before_norm",
    config.FeedForward: "hidden activation gated bias",
    config.ClampedGate: "limit slope",
    config.MoE: "experts active expert router shared shared_gate weigh",
    config.Beside: "dense mixture norm",  # whose mixture has no shared experts
    config.Router: "score normalise scale bias correction expert_gain norm groups capacity | loss",
    config.Groups: "count kept score",
    config.SparseMixer: "tolerance",
    config.Capacity: "factor tokens",
}


def test_every_part_of_a_block_is_taken_or_left() -> None:
    """What is new has to be taken by the kernels (model/kernels: before.py, latent.py, recurring.py,
    after.py, experts.py) and drawn
    above, or refused by `fits` of fused.py or layers.py: else they leave it out without a word."""
    for value, names in TAKEN.items():
        assert {field.name for field in fields(value)} == set(names.split()) - {"|"}, value


def served(model: Transformer, tokens: tuple[int, ...], page_size: int, threads: int) -> dict[int, list[Tensor]]:
    """The logits of a text by position, its prompt cut anywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    engine = HandEngine(model, page_size=page_size)
    engine.add(tokens, 15)
    engine.finish()
    torch.set_num_threads(before)
    return engine.texts[0].logits


def test_blocks_that_are_not_wholly_in_the_kernels_are_counted() -> None:
    attention, mixture = Attention(config.Grouped(2, 1, 16)), MoE(4, 2, FeedForward(32))
    whole = Block((attention, mixture))
    three = config.Beside(FeedForward(32), replace(mixture, shared=FeedForward(32)))
    others = tuple(Block((attention, branch)) for branch in (three, MoE(4, 2, FeedForward(24))))
    model = passes.apply(random_model(Architecture(61, 32, 64, (whole, *others, whole))))
    assert passes.left(model) == len(others)
