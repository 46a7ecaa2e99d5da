"""Bits per byte: known answers, and no dependence on how the text is batched."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import evaluation
from model.config import Architecture, Attention, Block, FeedForward, Grouped, Head, Rotary
from model.corpus import Tokens, stories, tokenise
from model.evaluation import bits_per_byte, window
from model.reference import logits_of
from model.tokenizer import ByteTokenizer
from tests.model.randomise import random_model

ARCHITECTURE = Architecture(40, 16, 64, (Block((Attention(Grouped(2, 1, 8), Rotary()), FeedForward(24))),))


def text(ids: int, text_bytes: int = 90) -> Tokens:
    return Tokens(np.random.default_rng(0).integers(0, 40, ids).astype(np.uint16), text_bytes)


@pytest.mark.parametrize("ids", [2, 8, 9, 10, 63, 150])
def test_a_uniform_model_needs_log2_of_the_vocabulary_a_token(ids: int) -> None:
    """Every id but the first is predicted once, at log2(40) bits: spread over 90 bytes, whatever the windows."""
    model = random_model(ARCHITECTURE)
    assert model.head is not None
    model.head.weight.zero_()  # type: ignore[operator]
    assert bits_per_byte(model, text(ids), length=9) == pytest.approx((ids - 1) * math.log2(40) / 90)


def test_a_certain_model_needs_nothing_when_it_is_right() -> None:
    """A bias of 100 on token 7: 0 bits for 7, 100 / ln 2 for any other."""
    model = random_model(Architecture(40, 16, 64, ARCHITECTURE.blocks, head=Head(bias=True)))
    for name, tensor in model.state_dict().items():
        if name.startswith("head"):
            tensor.zero_()
    assert model.head is not None
    model.head.bias[7] = 100.0  # type: ignore[operator]
    ids = np.array([3, 7, 7, 7, 5, 7], dtype=np.uint16)
    assert bits_per_byte(model, Tokens(ids[:4], 10), length=8) == pytest.approx(0.0, abs=1e-9)
    assert bits_per_byte(model, Tokens(ids, 10), length=8) == pytest.approx(100 / math.log(2) / 10)


def test_it_is_the_references_code_length() -> None:
    """Windows of 12 with no context across them; the last one is shorter."""
    model, tokens = random_model(ARCHITECTURE), text(40)
    nats = 0.0
    for start in range(0, 39, 12):
        window = tokens.ids[start : start + 13].tolist()
        logs = logits_of(model, window[:-1])[0].log_softmax(-1)
        nats -= float(logs.gather(1, torch.tensor(window[1:])[:, None]).sum())
    assert bits_per_byte(model, tokens, length=12) == pytest.approx(nats / math.log(2) / 90, rel=1e-5)


def test_memory_is_bounded_whatever_the_window_and_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows of 9 tokens a pass, logits of 5 rows at a time: the same figure."""
    model, tokens = random_model(ARCHITECTURE), text(150)
    expected = bits_per_byte(model, tokens, length=9)
    monkeypatch.setattr(evaluation, "TOKENS", 20)
    monkeypatch.setattr(evaluation, "LOGITS", 5 * 40 + 1)
    passes, rows = [], []
    states, project = model.states, model.project
    monkeypatch.setattr(model, "states", lambda step: passes.append(len(step.tokens)) or states(step))
    monkeypatch.setattr(model, "project", lambda x: rows.append(len(x)) or project(x))
    assert bits_per_byte(model, tokens, length=9) == pytest.approx(expected, rel=1e-6)
    assert max(passes) == 18 and sum(passes) == sum(rows) == 149 and max(rows) == 5


@pytest.mark.parametrize(
    ("card", "context", "length"),
    [
        ({"recipe": {"length": 128}}, 1024, 128),
        ({"recipe": {"length": 128}}, 100, 100),
        ({"recipe": "by hand"}, 1024, 1024),
        ({}, 131_072, 2048),
        (None, 131_072, 2048),
    ],
)
def test_a_window_is_that_of_the_card(card: dict[str, Any] | None, context: int, length: int, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "card.json").write_text(json.dumps(card))
    assert window(tmp_path, context) == length


def test_a_part_of_the_text_is_extrapolated_in_proportion() -> None:
    model = random_model(ARCHITECTURE)
    assert model.head is not None
    model.head.weight.zero_()  # type: ignore[operator]
    assert bits_per_byte(model, text(2000), 10, most_tokens=100) == pytest.approx(1999 * math.log2(40) / 90)


def test_a_corpus_counts_bytes_of_the_text_and_ends_every_story(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"title": "t", "text": story}) for story in ("ab", "é漢"))
    (tmp_path / "s.jsonl").write_text(lines)
    with gzip.open(tmp_path / "s.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    for name in ("s.jsonl", "s.jsonl.gz"):
        assert list(stories(tmp_path / name)) == ["ab", "é漢"]
        tokens = tokenise(tmp_path / name, ByteTokenizer())
        assert tokens.ids.tolist() == [256, 97, 98, 256, *"é漢".encode(), 256]
        assert tokens.text_bytes == 2 + 5


def test_windows_predict_every_id_but_the_first_once() -> None:
    tokens = text(32)
    predicted = np.concatenate([window[1:] for window in tokens.windows(7)])
    assert predicted.tolist() == tokens.ids[1:].tolist()


def test_batches_are_fixed_by_seed_and_step() -> None:
    tokens = text(200)
    one = tokens.batch(3, 5, size=4, length=10)
    assert one.shape == (4, 11)
    assert (one == tokens.batch(3, 5, 4, 10)).all()
    assert (one != tokens.batch(3, 6, 4, 10)).any() and (one != tokens.batch(4, 5, 4, 10)).any()
