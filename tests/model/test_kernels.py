"""Faster implementations equal the plain ones: the compiled decode over pages, weights laid out for the processor."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import Chunk, Full, Span, Window
from model.dense import dense_input
from model.kernels import native, packed
from model.kernels.attention import Scores
from model.kernels.paged import Pages, Scratch, decode, plain
from model.moe import Experts
from model.position import alibi_slopes
from model.transformer import Transformer
from tests.model.cases import MIXED_CASES
from tests.model.randomise import random_model, random_tokens

SIZE = 4  # tokens a page
SPANS: list[Span] = [Full(), Window(1), Window(6), Chunk(5)]
compiled = pytest.mark.skipif(native.library() is None, reason="no compiler here")


def pages_of(span: Span, positions: list[int], pool: int, seed: int) -> Pages:
    """Rows whose queries stand at these positions, each with pages of its own in random order."""
    free = random.Random(seed).sample(range(1, pool), pool - 1)
    first = [span.first_visible(p) for p in positions]
    tables = [[free.pop() for _ in range(f // SIZE, p // SIZE + 1)] for f, p in zip(first, positions, strict=True)]
    width = max(map(len, tables))
    table = torch.tensor([[*row, *[0] * (width - len(row))] for row in tables])
    visible = torch.tensor(first)
    return Pages(span, SIZE, table, visible // SIZE * SIZE, visible, torch.tensor(positions))


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@compiled
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_compiled_decode_equals_the_plain_one(data: st.DataObject) -> None:
    draw = data.draw
    kv, group = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    dim, seed = draw(st.integers(1, 40)), draw(st.integers(0, 99))
    latent = draw(st.booleans())
    inner = draw(st.integers(1, dim)) if latent else draw(st.integers(1, 40))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    span = draw(st.sampled_from(SPANS))
    positions = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    heads = kv * group
    scores = Scores(
        dim**-0.5,
        draw(st.sampled_from([None, 1.5])),
        alibi_slopes(heads) if draw(st.booleans()) else None,
        drawn(heads, seed=seed + 1, dtype=dtype) if draw(st.booleans()) else None,
    )
    query = drawn(len(positions), heads, dim, seed=seed + 2, dtype=dtype)
    keys = drawn(50, SIZE, kv, dim, seed=seed + 3, dtype=dtype)
    values = None if latent else drawn(50, SIZE, kv, inner, seed=seed + 4, dtype=dtype)
    pages = pages_of(span, positions, 50, seed)
    found = decode(query, keys, values, inner, pages, scores, Scratch())
    expected = plain(query, keys, values, inner, pages, scores, Scratch())
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(found.float(), expected.float(), atol=tolerance, rtol=tolerance)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_alone_is_the_row_in_a_batch_to_the_bit(dtype: torch.dtype) -> None:
    positions = [3, 0, 29, 12, 17]
    query, keys, values = (
        drawn(5, 6, 16, seed=0, dtype=dtype),
        drawn(50, SIZE, 2, 16, seed=1, dtype=dtype),
        drawn(50, SIZE, 2, 16, seed=2, dtype=dtype),
    )
    pages = pages_of(Full(), positions, 50, seed=3)
    together = decode(query, keys, values, 16, pages, Scores(0.25), Scratch())
    for i in range(5):
        own = Pages(Full(), SIZE, *(x[i : i + 1] for x in (pages.table, pages.starts, pages.first, pages.last)))
        assert torch.equal(decode(query[i : i + 1], keys, values, 16, own, Scores(0.25), Scratch())[0], together[i])


# ---------------------------------------------------------------------------------------------- packed weights


def in_dtype(name: str, dtype: torch.dtype) -> Transformer:
    """Parameters in one type, buffers as they are."""
    model = random_model(MIXED_CASES[name])
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MIXED_CASES)
def test_packed_weights_give_the_same_logits(name: str, dtype: torch.dtype) -> None:
    if not packed.supported(dtype):
        pytest.skip(f"no use for packed {dtype} here")
    model = in_dtype(name, dtype)
    tokens = random_tokens(model.architecture, 14, seed=0)
    step = dense_input(model.architecture, torch.tensor([tokens]))
    expected = model(step).logits
    count = packed.pack(model)
    left = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Experts)]
    assert count > 0 and not left
    error = (model(step).logits - expected).abs() / expected.abs().max()
    if dtype == torch.float32:
        assert error.max() < 2e-5
    else:
        assert error.mean() < 0.005 and error.quantile(0.99) < 0.03


def test_other_types_stay_plain() -> None:
    model = in_dtype("latent, dense then grouped experts", torch.float16)
    assert packed.pack(model) == 0
