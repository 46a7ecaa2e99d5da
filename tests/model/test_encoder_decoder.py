"""An encoder-decoder written out: heads one by one, everything after everything, as arXiv:1706.03762 has it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import config
from model.config import Architecture, Attention, Block, FeedForward, Grouped, Head, Norm
from model.dense import dense_input, dense_memory
from tests.model.randomise import random_model, random_tokens

HEADS, DIM, WIDTH, LAYERS = 3, 6, 20, 2
Weights = dict[str, Tensor]


def original() -> Architecture:
    norm = Norm("layer", eps=1e-5, bias=True)
    heads, feed = Grouped(HEADS, HEADS, DIM), FeedForward(34, "relu", gated=False, bias=True)
    encoder = Block((Attention(heads), feed), norm, "post")
    decoder = Block((Attention(heads), config.CrossAttention(heads), feed), norm, "post")
    return Architecture(
        53,
        WIDTH,
        32,
        (decoder,) * LAYERS,
        config.Embedding(config.Sinusoidal(), WIDTH**0.5),
        None,
        Head(tied=True),
        config.Encoder((encoder,) * LAYERS, None),
    )


def embed(tokens: tuple[int, ...], w: Weights) -> Tensor:
    rows = []
    for position, token in enumerate(tokens):
        rates = [position / 10000 ** (2 * i / WIDTH) for i in range(WIDTH // 2)]
        place = [turn(rate) for rate in rates for turn in (math.sin, math.cos)]
        rows.append(w["embedding.weight"][token] * WIDTH**0.5 + torch.tensor(place, dtype=torch.float64))
    return torch.stack(rows)


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    heads = []
    for q, k, v in zip(*(x.split(DIM, -1) for x in (query, key, value)), strict=True):
        scores = q @ k.T / DIM**0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, -1)


def add_and_norm(x: Tensor, y: Tensor, w: Weights, name: str) -> Tensor:
    return F.layer_norm(x + y, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def block(x: Tensor, memory: Tensor | None, w: Weights, name: str) -> Tensor:
    query, key, value = (x @ w[f"{name}.branches.0.qkv.weight"].T).chunk(3, -1)
    own = attend(query, key, value, causal=memory is not None) @ w[f"{name}.branches.0.out.weight"].T
    x = add_and_norm(x, own, w, f"{name}.norms_after.0")
    last = 1
    if memory is not None:
        key, value = (memory @ w[f"{name}.branches.1.key_value.weight"].T).chunk(2, -1)
        looked = attend(x @ w[f"{name}.branches.1.query.weight"].T, key, value, causal=False)
        x = add_and_norm(x, looked @ w[f"{name}.branches.1.out.weight"].T, w, f"{name}.norms_after.1")
        last = 2
    up, down = (f"{name}.branches.{last}.{part}" for part in ("up", "down"))
    hidden = (x @ w[f"{up}.weight"].T + w[f"{up}.bias"]).relu()
    return add_and_norm(x, hidden @ w[f"{down}.weight"].T + w[f"{down}.bias"], w, f"{name}.norms_after.{last}")


def naive(source: tuple[int, ...], target: tuple[int, ...], w: Weights) -> Tensor:
    memory = embed(source, w)
    for i in range(LAYERS):
        memory = block(memory, None, w, f"encoder.blocks.{i}")
    x = embed(target, w)
    for i in range(LAYERS):
        x = block(x, memory, w, f"blocks.{i}")
    return x @ w["embedding.weight"].T


def test_the_original_transformer() -> None:
    architecture = original()
    model = random_model(architecture)
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    sources = [random_tokens(architecture, 11, seed) for seed in (1, 2)]
    targets = [random_tokens(architecture, 7, seed) for seed in (3, 4)]
    memory = dense_memory(model, torch.tensor(sources))
    found = model(dense_input(architecture, torch.tensor(targets), memory)).logits
    expected = torch.cat([naive(source, target, w) for source, target in zip(sources, targets, strict=True)])
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_the_memory_is_needed() -> None:
    model = random_model(original())
    with pytest.raises(AssertionError, match="needs the memory"):
        model(dense_input(model.architecture, torch.tensor([[1, 2, 3]])))
