"""Which sizes are captured, what fills a step up, and that a captured forward pass asks nothing of the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model import paged
from model.config import Architecture, Chunk, Full, Window
from model.kernels.grouped import GroupedExperts
from model.kernels.paged import Pages
from model.moe import Experts
from model.transformer import StepInput, Transformer
from server.engine.graphs import Shape, empty_tokens, padded_pages, size_of, sizes
from server.engine.runner import ModelRunner, Room
from server.engine.staging import leaves, rebuilt
from tests.model.cases import CASES
from tests.model.randomise import random_model


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 8)),
        (20, (1, 2, 4, 8, 16, 20)),
        (64, (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)),
        (100, (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 100)),
    ],
)
def test_sizes(largest: int, expected: tuple[int, ...]) -> None:
    assert sizes(largest) == expected


def test_every_number_of_tokens_has_a_size_that_holds_it() -> None:
    known = sizes(64)
    assert [size_of(n, known) for n in (1, 2, 3, 5, 8, 9, 63, 64)] == [1, 2, 4, 8, 8, 16, 64, 64]
    assert [size_of(n, known) for n in (65, 128, 129)] == [128, 128, 192]


@pytest.mark.parametrize(
    ("span", "width"), [(Full(), 7), (Window(16), 2), (Window(17), 3), (Chunk(40), 4), (Window(900), 8)], ids=str
)
def test_how_wide_a_page_table_gets(span: Any, width: int) -> None:
    assert Shape.of(span, tokens=100, page_size=16, spare=9).width == width
    for last in range(100):
        pages = last // 16 - span.first_visible(last) // 16 + 1
        assert pages <= width


def test_rows_that_fill_up_see_one_slot_of_the_spare_page() -> None:
    three = torch.tensor([3, 4])
    pages = Pages(Full(), 4, torch.tensor([[1, 2], [5, 0]]), three * 0, three, three + 1, three + 1)
    filled = padded_pages(pages, 4, Shape(width=3, spare=8))
    assert filled.table.tolist() == [[1, 2, 0], [5, 0, 0], [8, 0, 0], [8, 0, 0]]
    assert filled.first.tolist() == [3, 4, 0, 0] and filled.last.tolist() == [4, 5, 0, 0]
    assert filled.starts.tolist() == [0, 0, 0, 0] and filled.size == 4
    assert filled.new is not None and filled.new.tolist() == [4, 5, 0, 0]


def can_be_captured(architecture: Architecture) -> bool:
    limited = any(moe.router.capacity is not None for _, moe in architecture.mixtures)
    return not limited and not architecture.recurrents


def on_no_device(model: Transformer) -> Transformer:
    """Shapes without numbers: who asks for a number gets an error."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Experts):
                setattr(parent, name, GroupedExperts(child))
    return model.to("meta")


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(case, id=name) for name, case in CASES.items() if can_be_captured(case)],
)
def test_a_captured_forward_pass_asks_nothing_of_the_host(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = on_no_device(random_model(architecture))
    runner = ModelRunner(model, Room(200, 5, 21))
    shapes = tuple(Shape.of(group.span, 64, 16, group.num_blocks) for group in runner.groups)
    tokens = empty_tokens(5, shapes, tuple(group.span for group in runner.groups), 16)
    there = rebuilt(tokens, iter([tensor.to("meta") for tensor in leaves(tokens)]))

    def decode(query: Tensor, keys: Tensor, values: Tensor | None, value_dim: int, pages: Pages, *_: Any) -> Tensor:
        pages.blocks(len(keys))
        return query.new_empty(*query.shape[:2], value_dim)

    monkeypatch.setattr(paged, "decode", decode)
    with torch.inference_mode():
        view = paged.PagedView(runner.cache, there.groups)
        out = model(StepInput(there.tokens, there.positions, view))
    assert out.logits.shape == (5, architecture.vocab) and out.logits.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        out.logits.sum().item()
