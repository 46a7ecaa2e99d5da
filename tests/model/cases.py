"""Architectures that parity is held on: one for each value of model/config.py, and a few that mix many.

Sizes are awkward on purpose: no two dimensions are equal that could be taken for each other, heads * dim is not the
width, and windows, chunks and pages do not divide one another. Equal sizes would hide a transposition.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model.config import (
    Alibi,
    Architecture,
    Attention,
    Block,
    Branch,
    Capacity,
    Chunk,
    ClampedGate,
    Convolution,
    Embedding,
    FeedForward,
    FixedDecay,
    Full,
    Grouped,
    Groups,
    Head,
    Latent,
    Learned,
    LearnedDecay,
    LinearScaling,
    Llama3Scaling,
    MoE,
    Norm,
    OutputGate,
    QKNorm,
    Recurrent,
    Rotary,
    Router,
    Sinusoidal,
    StateGate,
    Temperature,
    Window,
    YarnScaling,
)

VOCAB, WIDTH, CONTEXT = 61, 28, 64

HEADS = Grouped(6, 2, 10)
LATENT = Latent(query=5, kv_rank=16, plain_dim=9, rotary_dim=6, value_dim=7, query_rank=13)
ATTENTION = Attention(HEADS, Rotary())
DENSE = FeedForward(44)
EXPERT = FeedForward(18)
MIXTURE = MoE(experts=6, active=2, expert=EXPERT)
LAYER_NORM = Norm("layer", eps=1e-5, bias=True)
DELTA = Recurrent(heads=6, key_dim=5, value_dim=7, key_heads=3)
STATE_SPACE = replace(
    DELTA,
    rule="add",
    decay=LearnedDecay(discrete=True),
    convolution=Convolution(3, bias=True),
    gate=StateGate(before_norm=True),
    norm_over="key_head",
    skip=True,
)
LINEAR = Recurrent(4, 6, 9, None, "add", FixedDecay(0.8), None, StateGate("sigmoid"), norm_over="all")


def model(*blocks: Block, **parts: Any) -> Architecture:
    return Architecture(VOCAB, WIDTH, CONTEXT, blocks, **parts)


def block(*branches: Branch, **form: Any) -> Block:
    return Block(branches or (ATTENTION, DENSE), **form)


def attending(heads: Grouped | Latent = HEADS, **rest: Any) -> Architecture:
    """Two layers that attend so: a cache error of the first is seen by the second."""
    attention = Attention(heads, **({"position": Rotary()} | rest))
    return model(block(attention, DENSE), block(attention, DENSE))


def carrying(value: Recurrent = DELTA, **rest: Any) -> Architecture:
    """Two such layers around one that attends."""
    mixer = block(replace(value, **rest), DENSE)
    return model(mixer, block(), mixer)


def turning(**rotary: Any) -> Architecture:
    return attending(position=Rotary(**rotary))


def normed(norm: Norm | None = LAYER_NORM, **qk: Any) -> Architecture:
    return attending(replace(HEADS, qk_norm=QKNorm(norm or Norm(), **qk)))


def feeding(value: FeedForward) -> Architecture:
    return model(block(ATTENTION, value))


def formed(**form: Any) -> Architecture:
    """Two blocks of one form, a mixture among the branches."""
    return model(block(ATTENTION, DENSE, MIXTURE, **form), block(**form))


def mixing(moe: MoE = MIXTURE, **router: Any) -> Architecture:
    """Two mixture layers under one router: the second one's choices depend on the first one's outputs."""
    moe = replace(moe, router=Router(**router)) if router else moe
    return model(block(ATTENTION, moe), block(ATTENTION, moe))


HEAD_CASES = {
    "multi-head": attending(Grouped(6, 6, 10)),
    "grouped-query": attending(),
    "multi-query": attending(Grouped(6, 1, 10)),
    "one head": attending(Grouped(1, 1, 10)),
    "query, key and value biases": attending(replace(HEADS, bias=True)),
    "output bias": attending(out_bias=True),
    "clip": attending(replace(HEADS, clip=0.6)),
    "shared value": attending(replace(HEADS, shared_value=True)),
    "shared value, clip and bias": attending(replace(HEADS, shared_value=True, clip=0.8, bias=True)),
    "value norm": attending(replace(HEADS, value_norm=Norm(weight=False))),
    "value norm of a shared value": attending(replace(HEADS, shared_value=True, value_norm=LAYER_NORM)),
    "latent": attending(LATENT),
    "latent, query not compressed": attending(replace(LATENT, query_rank=None)),
    "latent, biases": attending(replace(LATENT, bias=True)),
    "latent, layer norm": attending(replace(LATENT, norm=LAYER_NORM)),
    "latent, interleaved": attending(LATENT, position=Rotary(layout="interleaved")),
    "latent, nothing turns": attending(replace(LATENT, rotary_dim=0), position=None),
    "latent, rotary part without rotation": attending(LATENT, position=None),
    "latent, value wider than key": attending(replace(LATENT, value_dim=40)),
}
RECURRENT_CASES = {
    "gated delta": carrying(),
    "delta gated per key, ranks": carrying(decay=LearnedDecay("key", 3), gate=StateGate("sigmoid", 4)),
    "delta, a key for each state, wide convolution": carrying(key_heads=None, convolution=Convolution(6)),
    "delta gated per key, bounded": carrying(decay=LearnedDecay("key", bound=2.5)),
    "delta, fixed decay, norm over all": carrying(
        decay=FixedDecay(2.0), norm=Norm(eps=1e-3, offset=1.0), norm_over="all"
    ),
    "delta, gate before the norm": carrying(gate=StateGate("sigmoid", before_norm=True)),
    "state space": carrying(STATE_SPACE),
    "state space, one group, no gate": carrying(STATE_SPACE, key_heads=1, gate=None),
    "linear": carrying(LINEAR),
    "linear, neither norm nor gate": carrying(LINEAR, gate=None, norm=None),
    "gated linear": carrying(LINEAR, decay=LearnedDecay("key"), skip=True),
    "alone in a block, no last norm": model(block(DELTA), block(MIXTURE), block(STATE_SPACE), norm=None),
    "no attention": model(block(DELTA, DENSE), block(STATE_SPACE, MIXTURE)),
    "beside a feed-forward, post norm": model(
        block(DELTA, DENSE, parallel=True), block(LINEAR, DENSE, placement="post")
    ),
}
SPAN_CASES = {
    "window": attending(span=Window(5)),
    "window of one": attending(span=Window(1)),
    "window beyond the text": attending(span=Window(60)),
    "window, latent": attending(LATENT, span=Window(6)),
    "window, alibi": attending(position=Alibi(), span=Window(5)),
    "chunk": attending(span=Chunk(7)),
    "chunk of one": attending(span=Chunk(1)),
    "chunk, latent": attending(LATENT, span=Chunk(5)),
    "window, chunk and full layers": model(
        *(block(Attention(HEADS, Rotary(), span), DENSE) for span in (Window(5), Chunk(7), Full(), Window(3)))
    ),
}
POSITION_CASES = {
    "rotary, half": turning(),
    "rotary, interleaved": turning(layout="interleaved"),
    "rotary, theta": turning(theta=50.0),
    "rotary, fraction": turning(fraction=0.6),
    "rotary, fraction of an odd count": turning(fraction=0.5),
    "rotary, fraction, interleaved": turning(fraction=0.4, layout="interleaved"),
    "rotary, linear": turning(scaling=LinearScaling(4.0)),
    "rotary, yarn": turning(scaling=YarnScaling(8.0, 64, beta_fast=8)),
    "rotary, yarn, not truncated": turning(theta=100.0, scaling=YarnScaling(8.0, 64, 8, 2, truncate=False)),
    "rotary, yarn, magnitude": turning(scaling=YarnScaling(8.0, 64, 8, magnitude=0.7), layout="interleaved"),
    "rotary, yarn, factor below one": turning(scaling=YarnScaling(0.5, 64)),
    "rotary, yarn, ramp at both ends": turning(theta=20.0, scaling=YarnScaling(4.0, 4096, 3000, 0.01)),
    "rotary, llama3": turning(scaling=Llama3Scaling(8.0, 64)),
    "rotary, llama3, one step": turning(theta=100.0, scaling=Llama3Scaling(16.0, 64, 1.0, 1.0)),
    "rotary, llama3, bands": turning(theta=100.0, scaling=Llama3Scaling(2.0, 40, 0.5, 3.0), fraction=0.8),
    "rotary, two values in one model": model(
        block(Attention(HEADS, Rotary(1e4)), DENSE), block(Attention(LATENT, Rotary(50.0, layout="interleaved")), DENSE)
    ),
    "alibi, four heads": attending(Grouped(4, 2, 10), position=Alibi()),
    "alibi, six heads": attending(position=Alibi()),
    "alibi, seven heads, maximum": attending(Grouped(7, 7, 10), position=Alibi(4.0)),
    "alibi, scaled": attending(position=Alibi(scale=0.3)),
    "alibi, latent": attending(LATENT, position=Alibi()),
    "no position": attending(position=None),
    "learned": model(block(), embedding=Embedding(Learned(CONTEXT))),
    "learned, offset": model(block(), embedding=Embedding(Learned(CONTEXT + 2, 2))),
    "sinusoidal": model(block(), embedding=Embedding(Sinusoidal())),
    "sinusoidal, half": model(block(), embedding=Embedding(Sinusoidal("half"))),
}
SCORE_CASES = {
    "scale": attending(scale=0.9),
    "softcap": attending(softcap=0.7),
    "sinks": attending(sinks=True),
    "sinks and softcap": attending(sinks=True, softcap=0.7),
    "sinks, latent": attending(LATENT, sinks=True),
    "sinks and alibi": attending(sinks=True, position=Alibi()),
    "temperature": attending(temperature=Temperature(4.0, 0.5)),
    "temperature, offset 0": attending(temperature=Temperature(4.0, 0.5, offset=0)),
    "temperature, latent": attending(LATENT, temperature=Temperature(3.0, 0.5)),
    "gate by head": attending(gate=OutputGate()),
    "gate by element": attending(gate=OutputGate("element", bias=True)),
    "gate by element, latent": attending(LATENT, gate=OutputGate("element")),
    "gate by head, latent": attending(LATENT, gate=OutputGate("head", bias=True)),
    "q/k norm by head": normed(),
    "q/k norm by head, after rotation": normed(after_rotation=True),
    "q/k norm by each head": normed(over="each"),
    "q/k norm by each head, after rotation": normed(Norm(bias=True, offset=0.5), over="each", after_rotation=True),
    "q/k norm by each head, bias alone": normed(Norm("layer", weight=False, bias=True), over="each"),
    "q/k norm by width": normed(over="width"),
    "q/k norm by width, after rotation": normed(over="width", after_rotation=True),
    "q/k norm, no weight": normed(Norm(weight=False), after_rotation=True),
    "q/k norm, offset": normed(Norm(offset=1.0)),
    "q/k norm, no position": attending(replace(HEADS, qk_norm=QKNorm()), position=None),
}
NORM_CASES = {
    "rms norm": formed(norm=Norm(eps=1e-3)),
    "rms norm, offset": formed(norm=Norm(offset=1.0)),
    "rms norm, bias": formed(norm=Norm(bias=True)),
    "rms norm, no weight": formed(norm=Norm(weight=False)),
    "layer norm": formed(norm=LAYER_NORM),
    "layer norm, no bias": formed(norm=Norm("layer")),
    "layer norm, no weight": formed(norm=Norm("layer", weight=False)),
    "layer norm, offset": formed(norm=Norm("layer", offset=1.0, bias=True)),
    "last norm": model(block(), norm=LAYER_NORM),
    "no last norm": model(block(), norm=None),
}
BLOCK_CASES = {
    **{f"{placement} norm": formed(placement=placement) for placement in ("pre", "post", "output", "sandwich")},
    "parallel": formed(parallel=True),
    "parallel, one norm": formed(parallel=True, shared_norm=True),
    "parallel, sandwich": formed(parallel=True, placement="sandwich"),
    "parallel, one norm, sandwich": formed(parallel=True, placement="sandwich", shared_norm=True),
    "parallel, output norm": formed(parallel=True, placement="output"),
    "residual scale": formed(residual_scale=0.3),
    "residual scale, post norm": formed(residual_scale=0.3, placement="post"),
    "gated branches": formed(gated=True),
    "gated branches, sandwich, scale": formed(gated=True, placement="sandwich", residual_scale=0.5),
    "attention alone": model(block(ATTENTION), block(DENSE), block(ATTENTION)),
    "feed-forward first, two attentions": model(block(DENSE, ATTENTION, ATTENTION)),
    "no attention": model(block(DENSE)),
}
FEED_CASES = {
    **{f"gated {name}": feeding(FeedForward(44, name)) for name in ("relu", "relu2", "gelu", "gelu_tanh", "silu")},
    **{
        f"plain {name}": feeding(FeedForward(44, name, gated=False, bias=True))
        for name in ("relu", "relu2", "gelu", "gelu_tanh", "silu")
    },
    "gated, bias": feeding(FeedForward(44, bias=True)),
    "clamped gate": feeding(FeedForward(44, ClampedGate(limit=0.4), bias=True)),
    "clamped gate, slope": feeding(FeedForward(44, ClampedGate(limit=0.5, slope=0.8))),
}
MIXTURE_CASES = {
    "softmax": mixing(),
    "softmax, not normalised": mixing(normalise=False),
    "sigmoid": mixing(score="sigmoid"),
    "sigmoid, not normalised": mixing(score="sigmoid", normalise=False),
    "sqrtsoftplus": mixing(score="sqrtsoftplus"),
    "sqrtsoftplus, not normalised": mixing(score="sqrtsoftplus", normalise=False),
    **{f"top-{k} of 6": mixing(replace(MIXTURE, active=k)) for k in (1, 2, 3, 6)},
    "top-1, not normalised": mixing(MoE(6, 1, EXPERT), normalise=False),
    "scale of the gates": mixing(scale=2.5),
    "router bias": mixing(bias=True),
    "correction": mixing(correction=True),
    "correction, sigmoid": mixing(correction=True, score="sigmoid", scale=1.7),
    "groups, best of each": mixing(groups=Groups(3, 2, "max")),
    "groups, two best of each": mixing(groups=Groups(2, 1, "top2"), score="sigmoid"),
    "groups of one": mixing(groups=Groups(6, 3, "top2")),
    "groups and correction": mixing(groups=Groups(3, 2, "top2"), correction=True, score="sigmoid"),
    "all groups kept": mixing(groups=Groups(3, 3)),
    "shared expert": mixing(replace(MIXTURE, shared=FeedForward(23, bias=True))),
    "shared expert, gated": mixing(replace(MIXTURE, shared=FeedForward(23), shared_gate=True)),
    "weighed input": mixing(replace(MIXTURE, weigh="input")),
    "weighed input, sigmoid top-1": mixing(MoE(6, 1, EXPERT, weigh="input"), score="sigmoid", normalise=False),
    "plain experts, biases": mixing(replace(MIXTURE, expert=FeedForward(18, "gelu", gated=False, bias=True))),
    "clamped experts, biases": mixing(replace(MIXTURE, expert=FeedForward(18, ClampedGate(0.5), bias=True))),
    "one expert": mixing(MoE(1, 1, EXPERT)),
    "capacity, Switch": mixing(MoE(4, 1, EXPERT), normalise=False, capacity=Capacity(1.0, 12)),
    "capacity, top-2": mixing(MIXTURE, capacity=Capacity(1.25, 14)),
    "capacity, shared expert": mixing(replace(MIXTURE, shared=DENSE), capacity=Capacity(0.5, 24)),
    "capacity, weighed input": mixing(replace(MIXTURE, weigh="input"), capacity=Capacity(0.5, 24)),
}
OUTER_CASES = {
    "head scale": model(block(), head=Head(scale=0.25)),
    "head softcap": model(block(), head=Head(softcap=1.5)),
    "head bias": model(block(), head=Head(bias=True)),
    "tied head": model(block(), head=Head(tied=True)),
    "tied head, bias, scale, softcap": model(block(), head=Head(True, True, 0.5, 2.0)),
    "embedding scale": model(block(), embedding=Embedding(scale=5.3)),
    "embedding norm": model(block(), embedding=Embedding(norm=LAYER_NORM)),
    "embedding scale, position and norm": model(block(), embedding=Embedding(Learned(CONTEXT), 5.3, LAYER_NORM)),
}
MIXED_CASES = {
    # Local and global layers, soft caps, norms on both ends with weights around zero, a tied and capped head.
    "local and global, sandwiched": model(
        *(
            block(Attention(HEADS, Rotary(), span, scale=0.4, softcap=5.0), FeedForward(44, "gelu_tanh"), **form)
            for form in [{"placement": "sandwich", "norm": Norm(offset=1.0)}]
            for span in (Window(6), Full())
        ),
        embedding=Embedding(scale=28**0.5),
        norm=Norm(offset=1.0),
        head=Head(tied=True, softcap=4.0),
    ),
    # Latent attention under YaRN; the first layer dense, then many small experts in groups with a shared one.
    "latent, dense then grouped experts": model(
        block(Attention(LATENT, Rotary(layout="interleaved", scaling=YarnScaling(8.0, 64, 8))), DENSE),
        block(
            Attention(LATENT, Rotary(layout="interleaved", scaling=YarnScaling(8.0, 64, 8)), scale=0.35),
            MoE(12, 4, EXPERT, Router("sigmoid", True, 2.5, correction=True, groups=Groups(4, 2)), FeedForward(23)),
        ),
    ),
    # Sinks, a window on every second layer, clamped experts with biases everywhere.
    "sinks, windows, clamped experts": model(
        *(
            block(
                Attention(Grouped(8, 2, 10, bias=True), Rotary(scaling=YarnScaling(4.0, 64, 8, truncate=False)), span,
                          sinks=True, out_bias=True),
                MoE(5, 2, FeedForward(18, ClampedGate(), bias=True), Router(bias=True)),
            )
            for span in (Window(6), Full())
        )
    ),
    # Chunks with rotation, full layers without but with a temperature; weighed inputs, another top-k in each layer.
    "chunks and full layers, two kinds of experts": model(
        block(
            Attention(replace(HEADS, qk_norm=QKNorm(Norm(weight=False), after_rotation=True)), Rotary(), Chunk(7)),
            MoE(6, 1, EXPERT, Router("sigmoid", normalise=False), shared=DENSE, weigh="input"),
        ),
        block(Attention(HEADS, temperature=Temperature(5.0, 0.3)), MoE(9, 3, FeedForward(11))),
        block(Attention(HEADS, Rotary(), Chunk(5)), DENSE),
    ),
    "parallel, multi-query, alibi": model(
        *(block(Attention(Grouped(6, 1, 10), Alibi()), FeedForward(44, "gelu", False), parallel=True, shared_norm=True,
                norm=LAYER_NORM),) * 2,
        embedding=Embedding(norm=LAYER_NORM),
        norm=LAYER_NORM,
    ),
    "post norm, sinusoidal": model(
        *(block(Attention(Grouped(4, 4, 10, bias=True), out_bias=True), FeedForward(44, "relu", False, True),
                placement="post", norm=LAYER_NORM),) * 2,
        embedding=Embedding(Sinusoidal(), scale=28**0.5),
        norm=None,
    ),
    # Three layers that carry a state to each that attends, experts in all of them.
    "gated delta, gated attention, experts": model(
        *(block(DELTA, replace(MIXTURE, shared=FeedForward(23), shared_gate=True), norm=Norm(offset=1.0)),) * 3,
        block(
            Attention(replace(HEADS, qk_norm=QKNorm()), Rotary(fraction=0.6), gate=OutputGate("element")),
            MIXTURE,
            norm=Norm(offset=1.0),
        ),
    ),
    "state spaces, experts and attention in blocks of their own": model(
        block(STATE_SPACE), block(MIXTURE), block(Attention(HEADS)), block(STATE_SPACE), block(DENSE)
    ),
    "latent and grouped layers, gates, capacity": model(
        block(Attention(LATENT, Rotary(), Window(9), gate=OutputGate("head")), MIXTURE, gated=True),
        block(
            Attention(replace(HEADS, qk_norm=QKNorm(over="width"), clip=1.5), Rotary(fraction=0.6), Window(4)),
            MoE(4, 1, EXPERT, Router(normalise=False, capacity=Capacity(1.0, 16))),
        ),
        head=Head(bias=True),
    ),
}  # fmt: skip

CASES: dict[str, Architecture] = {
    f"{group}: {name}": architecture
    for group, cases in {
        "heads": HEAD_CASES,
        "recurrent": RECURRENT_CASES,
        "span": SPAN_CASES,
        "position": POSITION_CASES,
        "scores": SCORE_CASES,
        "norm": NORM_CASES,
        "block": BLOCK_CASES,
        "feed-forward": FEED_CASES,
        "experts": MIXTURE_CASES,
        "outer": OUTER_CASES,
        "mixed": MIXED_CASES,
    }.items()
    for name, architecture in cases.items()
}
