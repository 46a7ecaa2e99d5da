"""Known answers of attention, of blocks and of the whole forward."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import (
    Alibi,
    Architecture,
    Attention,
    Block,
    FeedForward,
    Full,
    Grouped,
    Head,
    Latent,
    Norm,
    Rotary,
    Window,
)
from model.dense import dense_input
from model.kernels.attention import Scores, make_sight, plain
from model.reference import logits_of
from model.transformer import Transformer
from tests.model.randomise import random_model, random_tokens

# ---------------------------------------------------------------------------------------------- heads and scores


def small(*blocks: Block, vocab: int = 120, **parts: object) -> Architecture:
    return Architecture(vocab, 24, 128, blocks, **parts)  # type: ignore[arg-type]


def logits(model: Transformer, tokens: tuple[int, ...]) -> Tensor:
    found: Tensor = model(dense_input(model.architecture, torch.tensor([tokens]))).logits
    return found


def test_grouped_query_is_multi_head_with_keys_and_values_repeated() -> None:
    """arXiv:2305.13245: head by head, 0 0 0 1 1 1, and not 0 1 0 1 0 1."""
    grouped = random_model(small(Block((Attention(Grouped(6, 2, 10), Rotary()),))))
    multi = random_model(small(Block((Attention(Grouped(6, 6, 10), Rotary()),))))
    tokens = random_tokens(grouped.architecture, 20, seed=0)
    state = grouped.state_dict()
    name = "blocks.0.branches.0.qkv.weight"
    query, key, value = state[name].unflatten(0, (10, 10)).split((6, 2, 2))

    def with_repeated(order: list[int]) -> Tensor:
        multi.load_state_dict(state | {name: torch.cat((query, key[order], value[order])).flatten(0, 1)})
        return logits(multi, tokens)

    assert torch.allclose(with_repeated([0, 0, 0, 1, 1, 1]), logits(grouped, tokens), atol=1e-5)
    assert not torch.allclose(with_repeated([0, 1, 0, 1, 0, 1]), logits(grouped, tokens), atol=1e-1)


@pytest.mark.parametrize("query_rank", [13, None])
def test_absorbed_latent_attention_equals_the_expanded_one(query_rank: int | None) -> None:
    """arXiv:2405.04434 §2.1.2, to the last digits of float64."""
    heads = Latent(5, kv_rank=16, plain_dim=9, rotary_dim=6, value_dim=7, query_rank=query_rank)
    model = random_model(small(*(Block((Attention(heads), FeedForward(40))),) * 2)).double()
    tokens = random_tokens(model.architecture, 20, seed=0)
    states: list[Tensor] = []
    model.norm.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    logits(model, tokens)
    assert model.head is not None
    expected, _ = logits_of(model, tokens)
    assert (model.head(states[0]) - expected).abs().max() < 1e-10


def one_query(keys: list[float], scores: Scores) -> list[float]:
    """What the query 1 gives each of these keys: each key's value is a unit vector of its own."""
    count = len(keys)
    key = torch.tensor(keys)[None, None, :, None]
    positions = torch.arange(count)[None]
    sight = make_sight(Full(), positions[:, -1:], positions, torch.float32)
    found: list[float] = (
        plain(torch.ones(1, 1, 1, 1), key, torch.eye(count)[None, None], sight, scores).flatten().tolist()
    )
    return found


def test_a_sink_takes_weight_and_gives_nothing() -> None:
    """arXiv:2508.10925: at sink logit 0 exp(s) / (1 + Σ exp(s)); at -inf plain softmax."""
    keys = [0.5, -1.0, 2.0]
    total = sum(map(math.exp, keys))
    with_sink = one_query(keys, Scores(1.0, sinks=torch.zeros(1)))
    assert with_sink == pytest.approx([math.exp(s) / (1 + total) for s in keys])
    without = one_query(keys, Scores(1.0, sinks=torch.tensor([-math.inf])))
    assert without == pytest.approx([math.exp(s) / total for s in keys])


def test_softcap() -> None:
    """arXiv:2408.00118: 30 tanh(1) = 22.847825 at 30, the identity near 0."""
    capped, small_one = 22.847825, 30 * math.tanh(0.1 / 30)
    share = math.exp(capped) / (math.exp(capped) + math.exp(small_one))
    assert one_query([30.0, 0.1], Scores(1.0, softcap=30.0))[0] == pytest.approx(share)
    model = random_model(small(Block((FeedForward(8),)), head=Head(softcap=30.0)))
    free = random_model(replace(model.architecture, head=Head()))
    tokens = random_tokens(model.architecture, 9, seed=0)
    assert torch.allclose(logits(model, tokens), 30 * torch.tanh(logits(free, tokens) / 30))
    assert 30 * math.tanh(1) == pytest.approx(22.847825)


def test_alibi_subtracts_slope_times_distance() -> None:
    weights = one_query([0.0, 0.0, 0.0], Scores(1.0, slopes=torch.tensor([0.5])))
    total = 1 + math.exp(-0.5) + math.exp(-1)
    assert weights == pytest.approx([math.exp(-1) / total, math.exp(-0.5) / total, 1 / total])


# ---------------------------------------------------------------------------------------------- the whole forward


@pytest.mark.parametrize(("window", "layers"), [(4, 8), (6, 16), (1, 3)])
def test_windows_reach_layers_times_window_minus_one_plus_one(window: int, layers: int) -> None:
    """arXiv:2310.06825: (4, 8) → 29 positions, (6, 16) → 91."""
    block = Block((Attention(Grouped(2, 1, 4), span=Window(window)),))
    model = random_model(Architecture(120, 8, 120, (block,) * layers))
    model.embedding.weight.requires_grad_(True)
    logits(model, tuple(range(100)))[-1].sum().backward()
    assert model.embedding.weight.grad is not None
    felt = model.embedding.weight.grad.abs().sum(-1).nonzero().flatten().tolist()
    assert felt == list(range(100 - (layers * (window - 1) + 1), 100))


def test_nothing_looks_ahead() -> None:
    model = random_model(small(*(Block((Attention(Grouped(6, 2, 10), Rotary()), FeedForward(40))),) * 2))
    tokens = random_tokens(model.architecture, 20, seed=0)
    other = (*tokens[:12], *random_tokens(model.architecture, 8, seed=1))
    assert torch.allclose(logits(model, tokens)[:12], logits(model, other)[:12], atol=1e-5)
    assert not torch.allclose(logits(model, tokens)[12:], logits(model, other)[12:], atol=1e-1)


def test_identities_of_the_block() -> None:
    """Residual scale 1 and a gate at infinity change nothing; one branch in parallel is one branch in series."""
    branches = (Attention(Grouped(6, 2, 10), Alibi()),)
    serial = random_model(small(Block(branches)))
    tokens = random_tokens(serial.architecture, 12, seed=0)
    state = serial.state_dict()
    for form in (Block(branches, parallel=True), Block(branches, parallel=True, shared_norm=True)):
        model = random_model(small(form))
        model.load_state_dict(state)
        assert torch.equal(logits(model, tokens), logits(serial, tokens))
    gated = random_model(small(Block(branches, gated=True)))
    gated.load_state_dict(state | {"blocks.0.gates": torch.tensor([math.inf])})
    assert torch.equal(logits(gated, tokens), logits(serial, tokens))


def test_the_seven_steps_of_a_forward_by_hand() -> None:
    """Ids → rows of a table → positions → a layer with residuals and norms → last norm → vocabulary → the best token.

    Width 2, and an attention whose queries are zero: it averages what it sees. Token 0 is (1, 0), token 1 is (0, 1).
    """
    architecture = Architecture(
        2, 2, 8, (Block((Attention(Grouped(1, 1, 2)),), norm=Norm(eps=1e-12)),), norm=Norm(eps=1e-12)
    )
    model = Transformer(architecture)
    eye, nothing = torch.eye(2), torch.zeros(2, 2)
    state = {"embedding.weight": eye, "head.weight": eye, "blocks.0.branches.0.out.weight": eye}
    state["blocks.0.branches.0.qkv.weight"] = torch.cat((nothing, nothing, eye))
    model.load_state_dict(model.state_dict() | state)
    # Normed rows are (√2, 0) and (0, √2); the second token's average of both is (√2/2, √2/2), added to (0, 1).
    half = math.sqrt(2) / 2
    size = math.sqrt((half**2 + (1 + half) ** 2) / 2)
    found = logits(model, (0, 1))
    assert found[1].tolist() == pytest.approx([half / size, (1 + half) / size], rel=1e-6)
    assert found[0].tolist() == pytest.approx([math.sqrt(2), 0.0], rel=1e-6)
    assert found.argmax(-1).tolist() == [0, 1]
