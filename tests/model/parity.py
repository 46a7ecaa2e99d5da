"""What it means to equal the reference."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from model.config import Architecture
from model.reference import Routed, logits_of
from model.routing import PAD
from model.transformer import Transformer
from server.engine.request import Routes
from tests.model.randomise import random_model, random_tokens
from tests.model.served import HandEngine, Text

TOLERANCE = 2e-5  # of the largest logit; 1e-4 is promised, 3e-6 was seen
TEXTS = ((15, 11), (9, 4), (7, 1))  # (tokens, how many of them are prompt)

Expected = tuple[Tensor, tuple[Routed, ...]]


@functools.cache
def prepared(architecture: Architecture) -> tuple[Transformer, list[tuple[int, ...]], list[Expected]]:
    """A random model, three texts, and what the reference says of each."""
    model = random_model(architecture)
    texts = [random_tokens(architecture, length, seed) for seed, (length, _) in enumerate(TEXTS)]
    return model, texts, [logits_of(model, text) for text in texts]


def waiting(architecture: Architecture, **options: Any) -> HandEngine:
    """A hand-driven engine with the prepared texts."""
    model, texts, _ = prepared(architecture)
    engine = HandEngine(model, **options)
    for tokens, (_, prompt) in zip(texts, TEXTS, strict=True):
        engine.add(tokens, prompt)
    return engine


def assert_close(found: Tensor, expected: Tensor, scale: Tensor) -> None:
    error = float((found - expected).abs().max() / scale.abs().max())
    assert error <= TOLERANCE


def assert_text(text: Text, expected: Expected, since: int = 0) -> None:
    """Every logit and every route that came out for a text, computed from position `since` on."""
    logits, routed = expected
    assert len(text.tokens) - 1 in text.logits
    for position, found in text.logits.items():
        for row in found:
            assert_close(row, logits[position], logits)
    for position, rows in text.routes.items():
        for routes in rows:
            assert_routes(routes, routed, position)
    assert sorted(text.routes) == (list(range(since, len(text.tokens))) if routed else [])


def assert_routes(routes: Routes, routed: tuple[Routed, ...], position: int) -> None:
    for layer, decisions in enumerate(routed):
        experts, kept = decisions.experts[position].numpy(), decisions.kept[position].numpy()
        used, padding = np.split(routes.experts[0, layer], [len(experts)])
        assert used.tolist() == np.where(kept, experts, ~experts).tolist()
        assert (padding == PAD).all()
        np.testing.assert_allclose(routes.gates[0, layer, : len(experts)], decisions.gates[position], atol=1e-5)


def assert_texts(engine: HandEngine, architecture: Architecture) -> None:
    """Every text of `waiting` came out as the reference has it, and page 0 was left alone."""
    for text, expected in zip(engine.texts, prepared(architecture)[2], strict=True):
        assert_text(text, expected)
    for pool in (*engine.runner.cache.keys, *engine.runner.cache.values):
        assert pool is None or not pool[0].any()
