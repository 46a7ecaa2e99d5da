"""Blocks joined into one call give, to the last bit, what they give one after another, and what the reference gives."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import torch

from model import moe as modules
from model.config import (
    Alibi,
    Architecture,
    Attention,
    Beside,
    Block,
    Capacity,
    Chunk,
    ClampedGate,
    FeedForward,
    FixedDecay,
    Grouped,
    Groups,
    Latent,
    LearnedDecay,
    MoE,
    Norm,
    OutputGate,
    QKNorm,
    Recurrent,
    Rotary,
    Router,
    SparseMixer,
    StateGate,
    Temperature,
    Window,
)
from model.dense import dense_input
from model.kernels import fused, layers, native, packed, passes
from model.kernels.experts import PanelRouter
from model.kernels.layers import Layers
from model.transformer import Transformer
from tests.model.cases import block
from tests.model.parity import TEXTS, assert_texts, prepared
from tests.model.randomise import random_model, random_tokens, rounded
from tests.model.served import HandEngine

pytestmark = pytest.mark.skipif(not native.linear_types(), reason="no vector units or no compiler here")
ATTENTION, FEED = Attention(Grouped(4, 2, 16), Rotary()), FeedForward(96)
MIXTURE = MoE(4, 2, FeedForward(48))
FORMS = ("relu", "relu2", "gelu", "gelu_tanh", "silu")
CLAMPED = ClampedGate(0.8, 1.7)
LAYER = Norm("layer", bias=True)
DELTA = Recurrent(heads=4, key_dim=16, value_dim=32, key_heads=2)
STATES = replace(
    DELTA,
    rule="add",
    decay=LearnedDecay(discrete=True),
    gate=StateGate(before_norm=True),
    norm_over="key_head",
    skip=True,
)
LATENT = Latent(query=3, kv_rank=48, plain_dim=32, rotary_dim=16, value_dim=16)


def stack(*blocks: Block) -> Architecture:
    return Architecture(61, 64, 64, blocks)


def attending(**more: Any) -> Block:
    return block(replace(ATTENTION, **more), FEED)


def norming(norm: Norm | None = None, **more: Any) -> Block:
    """A norm of queries and keys."""
    return attending(heads=replace(ATTENTION.heads, qk_norm=QKNorm(norm or Norm(), **more)))


def mixing(**more: Any) -> Block:
    return block(ATTENTION, replace(MIXTURE, **more))


def formed(**form: Any) -> Architecture:
    """A form of block with everything that it may surround."""
    latent = replace(ATTENTION, heads=LATENT)
    return stack(
        block(ATTENTION, FEED, **form),
        block(ATTENTION, MIXTURE, **form),
        block(latent, replace(MIXTURE, shared=FeedForward(32)), **form),
        block(latent, FeedForward(80, "gelu", gated=False, bias=True), **form),
    )


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
    "latent": stack(
        attending(heads=LATENT),
        attending(heads=replace(LATENT, query_rank=32), position=Rotary(layout="interleaved")),
        attending(heads=replace(LATENT, bias=True, norm=Norm("layer", bias=True)), out_bias=True, span=Window(6)),
        attending(heads=replace(LATENT, query_rank=80, bias=True, rotary_dim=0), position=Alibi(), sinks=True),
    ),
    "latent, more and wider heads than a task takes": stack(
        attending(heads=Latent(query=129, kv_rank=512, plain_dim=16, rotary_dim=16, value_dim=16)), PLAIN
    ),
    "latent and grouped, with mixtures": stack(
        attending(heads=LATENT, position=None),
        PLAIN,
        block(replace(ATTENTION, heads=replace(LATENT, query=5, query_rank=16)), MIXTURE),
        mixing(),
    ),
    "mixtures": stack(PLAIN, mixing(), mixing(expert=FeedForward(32, "relu2", gated=False, bias=True)), PLAIN),
    "routers of every kind": stack(
        mixing(router=Router("sigmoid", correction=True, scale=2.5)),
        mixing(router=Router("sqrtsoftplus", bias=True, normalise=False), weigh="input"),
        mixing(experts=7, active=3),
        mixing(experts=2),
    ),
    "norms of queries and keys": stack(
        norming(LAYER, over="each"),
        norming(over="width"),
        norming(over="head", after_rotation=True),
        norming(LAYER, over="width", after_rotation=True),
    ),
    "clips and temperatures": stack(
        attending(heads=replace(ATTENTION.heads, clip=0.6), temperature=Temperature(4, 0.3)),
        attending(heads=replace(ATTENTION.heads, clip=0.9, qk_norm=QKNorm())),
        attending(heads=LATENT, temperature=Temperature(2, 0.2, offset=0)),
        attending(position=None, temperature=Temperature(3, 0.1)),
    ),
    "values of keys, normed values": stack(
        attending(heads=replace(ATTENTION.heads, shared_value=True)),
        attending(heads=replace(ATTENTION.heads, shared_value=True, clip=0.8, bias=True, qk_norm=QKNorm())),
        attending(heads=replace(ATTENTION.heads, value_norm=Norm(weight=False))),
        attending(heads=replace(ATTENTION.heads, shared_value=True, value_norm=LAYER)),
    ),
    "gates": stack(
        attending(gate=OutputGate()),
        attending(gate=OutputGate("element", bias=True)),
        attending(gate=OutputGate("head", bias=True), heads=LATENT),
        attending(gate=OutputGate("element"), heads=LATENT, position=None),
    ),
    "parallel": formed(parallel=True),
    "parallel, one norm": formed(parallel=True, shared_norm=True, norm=LAYER),
    "norms on outputs": formed(placement="output"),
    "norms on sums": formed(placement="post", norm=LAYER),
    "norms at both ends": formed(placement="sandwich", norm=Norm(offset=1.0)),
    "norms at both ends, parallel, scaled": formed(placement="sandwich", parallel=True, residual_scale=0.4),
    "scaled": formed(residual_scale=0.3),
    "every activation": stack(
        *(block(ATTENTION, FeedForward(48, kind, gated=gated)) for kind in FORMS for gated in (True, False)),
        block(ATTENTION, FeedForward(48, CLAMPED, bias=True)),
        mixing(expert=FeedForward(32, CLAMPED, bias=True)),
    ),
    "shared experts": stack(
        mixing(shared=FeedForward(32)),
        mixing(shared=FeedForward(48, "gelu", gated=False), shared_gate=True),
        mixing(shared=FeedForward(32, bias=True), shared_gate=True, weigh="input"),
    ),
    "groups of experts": stack(
        mixing(router=Router(groups=Groups(2, 1))),
        mixing(experts=6, router=Router("sigmoid", correction=True, groups=Groups(3, 2, "max"))),
        mixing(experts=8, active=4, router=Router("sigmoid", groups=Groups(4, 2), scale=2.5)),
    ),
    "capacities": stack(
        mixing(router=Router(capacity=Capacity(1.5, 8))),
        mixing(experts=3, active=1, router=Router(normalise=False, capacity=Capacity(1.0, 9)), weigh="input"),
        mixing(router=Router("sigmoid", capacity=Capacity(0.5, 8)), shared=FeedForward(32)),
    ),
    "states": stack(
        block(DELTA, FEED),
        block(replace(DELTA, decay=LearnedDecay("key", 16), gate=StateGate("sigmoid", 16)), MIXTURE),
        PLAIN,
        block(STATES, FEED, placement="sandwich"),
        block(replace(DELTA, rule="add", decay=FixedDecay(), convolution=None), MIXTURE, parallel=True),
    ),
    "branches alone": stack(
        block(DELTA),
        block(MIXTURE),
        block(ATTENTION),
        block(FEED),
        block(STATES, placement="post"),
        block(MIXTURE),
        block(replace(ATTENTION, heads=LATENT), placement="sandwich"),
        block(FEED, placement="post", norm=LAYER),
        block(replace(MIXTURE, shared=FeedForward(32)), placement="output", residual_scale=0.5),
        block(FEED, parallel=True),
    ),
    "some that stay alone": stack(
        PLAIN,
        PLAIN,
        mixing(expert=FeedForward(24)),
        PLAIN,
        block(ATTENTION, FEED, FEED),
        PLAIN,
        mixing(),
    ),
}
JOINED = {name: [len(architecture.blocks)] for name, architecture in CASES.items()} | {"some that stay alone": [2, 2]}
BEYOND = {  # what the reference does not have
    "a feed-forward beside experts": stack(
        block(ATTENTION, Beside(FEED, MIXTURE), placement="sandwich"),
        block(ATTENTION, Beside(FEED, replace(MIXTURE, router=Router(norm=LAYER), weigh="input"), LAYER)),
        block(ATTENTION, Beside(FEED, MIXTURE), parallel=True, shared_norm=True),
        block(Beside(FEED, MIXTURE)),
    ),
}
ARCHITECTURES = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES.keys())


def runs(model: Transformer) -> list[int]:
    return [len(module.blocks) for module in model.blocks if isinstance(module, Layers)]


def serve(model: Transformer, architecture: Architecture) -> HandEngine:
    engine = HandEngine(model, seed=3)
    for seed, (length, prompt) in enumerate(TEXTS):
        engine.add(random_tokens(architecture, length, seed), prompt)
    engine.finish()
    return engine


@ARCHITECTURES
def test_served_they_are_the_reference(architecture: Architecture) -> None:
    model = passes.apply(random_model(architecture))
    assert runs(model)
    assert_texts(serve(model, architecture), architecture)


@pytest.mark.parametrize("dtype", sorted(native.linear_types(), key=str), ids=str)
@pytest.mark.parametrize("architecture", (CASES | BEYOND).values(), ids=CASES | BEYOND)
def test_joined_or_not_is_the_same_to_the_bit(
    architecture: Architecture, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = passes.apply(rounded(random_model(architecture), dtype))
    monkeypatch.setattr(layers, "join", lambda model: 0)
    apart = passes.apply(rounded(random_model(architecture), dtype))
    assert runs(joined) and not runs(apart)
    found, expected = (serve(model, architecture) for model in (joined, apart))
    for text, other in zip(found.texts, expected.texts, strict=True):
        assert text.logits.keys() == other.logits.keys()
        for position, rows in text.logits.items():
            assert all(torch.equal(*pair) for pair in zip(rows, other.logits[position], strict=True))


@pytest.mark.parametrize("name", ["dense", "spans and tables of their own", "mixtures"])
def test_one_model_over_two_caches_in_turn(name: str) -> None:
    """What layers keep of a cache is not taken for another's."""
    architecture = CASES[name]
    model = passes.apply(random_model(architecture))
    engines = [HandEngine(model, seed=seed) for seed in (3, 4)]
    for engine in engines:
        for tokens, (_, prompt) in zip(prepared(architecture)[1], TEXTS, strict=True):
            engine.add(tokens, prompt)
    while waiting := [(engine, text) for engine in engines for text in engine.texts if not text.done]:
        for engine, text in waiting:
            engine.step([(text, 3)])
    for engine in engines:
        assert_texts(engine, architecture)


def test_a_model_does_not_keep_a_cache() -> None:
    model = passes.apply(random_model(CASES["dense"]))
    kept = ref(serve(model, CASES["dense"]).runner.cache.keys[0])
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("name", JOINED)
def test_neighbours_are_joined(name: str) -> None:
    model = random_model(CASES[name])
    assert fused.fuse(model) >= sum(JOINED[name])
    packed.pack(model)
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


def test_what_is_fast_already_is_left_alone() -> None:
    model = passes.apply(random_model(CASES["mixtures"]))
    before = list(model.blocks)
    assert list(passes.apply(model).blocks) == before


ROUTERS = {
    "softmax": Router(),
    "softmax, not normalised": Router(normalise=False, scale=0.5),
    "sigmoid, corrected": Router("sigmoid", correction=True, scale=2.5),
    "square root of softplus": Router("sqrtsoftplus", bias=True),
    "sparse mixer": Router(SparseMixer(0.3)),
    "sparse mixer, not normalised, with gains": Router(SparseMixer(), normalise=False, expert_gain=True),
    "gains": Router(expert_gain=True, scale=0.5),
    "a norm": Router(norm=Norm(offset=1.0)),
    "a layer norm": Router(norm=LAYER, bias=True),
    "groups by two": Router("sigmoid", correction=True, groups=Groups(8, 5)),
    "groups by one": Router(groups=Groups(10, 7, "max"), expert_gain=True),
}


@pytest.mark.parametrize("active", [1, 3, 40])
@pytest.mark.parametrize("value", ROUTERS.values(), ids=ROUTERS.keys())
def test_a_router_decides_as_the_plain_one(value: Router, active: int) -> None:
    torch.manual_seed(0)
    active = min(active, 25 if value.groups else active)
    plain = modules.Router(MoE(40, active, FeedForward(32), value), 64).eval().requires_grad_(False)
    for tensor in plain.state_dict().values():
        tensor.normal_()
    x = torch.randn(33, 64)
    fast = PanelRouter(plain).eval()
    found, expected = fast(x), plain(x)
    assert torch.equal(found.experts, expected.experts) and found.experts.dtype == torch.int64
    for name in ("gates", "logits", "ranked"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(fast(row[None]).gates[0], gates) for row, gates in zip(x, found.gates, strict=True))


def test_a_router_of_numbers_that_are_none_chooses_experts_that_are_there() -> None:
    plain = modules.Router(MoE(5, 2, FeedForward(32)), 64).eval().requires_grad_(False)
    x = torch.randn(3, 64)
    x[1, 7] = torch.nan
    found = PanelRouter(plain).eval()(x)
    assert ((found.experts >= 0) & (found.experts < 5)).all() and (found.experts[:, 0] != found.experts[:, 1]).all()
    assert found.gates[1].isnan().all() and found.gates[[0, 2]].isfinite().all()
