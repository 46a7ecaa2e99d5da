"""What the reference does not have, served: the same logits as an uncached forward, however a text is cut and mixed."""

from __future__ import annotations

import pytest
import torch

from model import config
from model.config import Architecture, Attention, Beside, Buckets, Embedding, FeedForward, Indexer, MoE, Norm, Rotary
from model.dense import dense_input
from model.position import bucket, inverse_frequencies
from tests.model.cases import ATTENTION, DENSE, EXPERT, HEADS, LATENT, MIXTURE, block, model
from tests.model.randomise import random_model, random_tokens
from tests.model.served import HandEngine

BUCKETS = Attention(HEADS, Buckets(8, 20))
CHOOSY = Attention(LATENT, Rotary(layout="interleaved"), indexer=Indexer(3, 8, 4))
QUARTER = Attention(HEADS, Rotary(1e6, 0.4, scaling=config.ProportionalScaling(2.0)))
ROUTER = config.Router(expert_gain=True, norm=Norm())
CASES = {
    "buckets": model(block(BUCKETS, DENSE), block(BUCKETS, DENSE)),
    "sparse selection": model(block(CHOOSY, DENSE), block(CHOOSY, MIXTURE)),
    "proportional rotation": model(block(QUARTER, DENSE), block(QUARTER, DENSE)),
    "beside": model(block(ATTENTION, Beside(DENSE, MoE(6, 2, EXPERT, ROUTER)), placement="sandwich")),
    "sparse mixer": model(block(ATTENTION, MoE(6, 2, EXPERT, config.Router(config.SparseMixer(0.5), False)))),
    "spare rows, a block for images": model(
        block(),
        block(config.CrossAttention(HEADS), FeedForward(30), gated=True),
        block(),
        embedding=Embedding(spare=4),
    ),
}
EVERY = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES.keys())


@EVERY
def test_served_as_uncached(architecture: Architecture, kernel: str) -> None:
    transformer = random_model(architecture)
    engine = HandEngine(transformer, seed=5)
    texts = [engine.add(random_tokens(architecture, length, length), prompt=length - 3) for length in (17, 9, 12)]
    engine.finish()
    for text in texts:
        expected = transformer(dense_input(architecture, torch.tensor([text.tokens]))).logits
        for position, rows in text.logits.items():
            for row in rows:
                assert float((row - expected[position]).abs().max() / expected.abs().max()) < 2e-5


def test_of_equal_keys_an_indexer_takes_the_earlier() -> None:
    """Small heads often score nothing at all; the choice then must not hang on where the keys lie."""
    architecture = CASES["sparse selection"]
    transformer = random_model(architecture)
    for layer in transformer.blocks:
        layer.branches[0].indexer.weights.weight.zero_()  # type: ignore[index,union-attr]
    engine = HandEngine(transformer, seed=2)
    text = engine.add(random_tokens(architecture, 17, 1), prompt=9)
    engine.finish()
    expected = transformer(dense_input(architecture, torch.tensor([text.tokens]))).logits
    for position, rows in text.logits.items():
        torch.testing.assert_close(rows[0], expected[position], atol=1e-4, rtol=1e-4)


def test_an_indexer_chooses() -> None:
    """The case above would also pass if everything were kept."""
    architecture = CASES["sparse selection"]
    transformer = random_model(architecture)
    step = dense_input(architecture, torch.tensor([random_tokens(architecture, 12, 0)]))
    chosen = transformer(step).logits
    for layer in transformer.blocks:
        layer.branches[0].indexer.value = Indexer(3, 8, 12)  # type: ignore[index,union-attr]
    everything = transformer(step).logits
    torch.testing.assert_close(chosen[:4], everything[:4])
    assert not torch.allclose(chosen[5:], everything[5:], atol=1e-2)


def test_buckets_of_t5() -> None:
    value, distances = Buckets(32, 128), torch.tensor([0, 15, 16, 20, 32, 64, 127, 199, -3])
    assert bucket(distances, value, both_ways=False).tolist() == [0, 15, 16, 17, 21, 26, 31, 31, 0]
    both = bucket(torch.tensor([0, 7, 8, 200, -1, -7, -8, -200]), value, both_ways=True)
    assert both.tolist() == [0, 7, 8, 15, 17, 23, 24, 31]


def test_proportional_rotation_turns_the_first_pairs_only() -> None:
    rates = inverse_frequencies(Rotary(1e4, 0.5, scaling=config.ProportionalScaling(2.0)), 8)
    assert rates.tolist() == pytest.approx([0.5, 0.05, 0.0, 0.0])
