"""What the reference library saves, we load, and it says the same: whole prompts, and decoding from the cache."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint import huggingface
from model.checkpoint.families import FAMILIES
from model.dense import dense_input
from model.transformer import Transformer
from tests.model.checkpoint.cases import CASES
from tests.model.checkpoint.cases import FAMILIES as TRIED
from tests.model.checkpoint.tiny import draw_tokens, logits_of, save, tiny_model
from tests.model.served import HandEngine

TOLERANCE = 1e-5  # of the largest logit
PROMPT = 9


def test_every_type_that_loads_is_tried() -> None:
    assert set(FAMILIES) == set(TRIED)


def test_the_page_names_every_type_that_loads() -> None:
    page = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert set(re.findall(r"`(\w+)`", "".join(table))) - {"model_type"} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_reference(case: str, tmp_path: Path) -> None:
    reference = tiny_model(case)
    save(reference, tmp_path)
    tokens = draw_tokens(reference.config.vocab_size)
    expected = logits_of(reference, tokens)
    ours = huggingface.load(tmp_path, torch.float32)
    assert error(prompt_logits(ours, tokens), expected) < TOLERANCE
    for row, found in served_logits(ours, tokens):
        for position, logits in found.items():
            assert error(logits, expected[row, position], expected) < TOLERANCE, f"position {position}"


def prompt_logits(model: Transformer, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(dense_input(model.architecture, tokens)).logits.unflatten(0, tokens.shape)


def served_logits(model: Transformer, tokens: Tensor) -> list[tuple[int, dict[int, Tensor]]]:
    """(row, logits by position) of texts that are served together, cut at random, over a paged cache."""
    engine = HandEngine(model, seed=1)
    texts = [engine.add(row.tolist(), PROMPT) for row in tokens]
    engine.finish()
    assert all(tokens.shape[1] - 1 in text.logits for text in texts)
    return [(row, {at: torch.stack(all_) for at, all_ in text.logits.items()}) for row, text in enumerate(texts)]


def error(found: Tensor, expected: Tensor, scale: Tensor | None = None) -> float:
    return float((found - expected).abs().max() / (expected if scale is None else scale).abs().max())
