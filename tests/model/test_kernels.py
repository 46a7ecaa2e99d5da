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
from model.kernels.paged import Entries, Pages, Scratch, decode, plain
from model.moe import Experts
from model.position import alibi_slopes
from model.transformer import Transformer
from tests.model.cases import MIXED_CASES
from tests.model.randomise import random_model, random_tokens

SIZES = 4, 16, 32, 48  # tokens a page: fewer than the vector units take at once, as many, twice, no part of a block
SPANS: list[Span] = [Full(), Window(1), Window(6), Chunk(5), Window(37)]
compiled = pytest.mark.skipif(native.library() is None, reason="no compiler here")


def pages_of(span: Span, positions: list[int], pool: int, seed: int, size: int) -> Pages:
    """Rows whose queries stand at these positions, each with pages of its own in random order."""
    free = random.Random(seed).sample(range(1, pool), pool - 1)
    first = [span.first_visible(p) for p in positions]
    tables = [[free.pop() for _ in range(f // size, p // size + 1)] for f, p in zip(first, positions, strict=True)]
    width = max(map(len, tables))
    table = torch.tensor([[*row, *[0] * (width - len(row))] for row in tables])
    visible = torch.tensor(first)
    return Pages(span, size, table, visible // size * size, visible, torch.tensor(positions))


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def fresh_entries(pages: Pages, keys: Tensor, values: Tensor | None) -> Entries:
    """What every row's own token leaves, cut out of something wider as projections are."""
    rows = torch.arange(len(pages.table))
    place = pages.last - pages.starts
    slots = pages.table[rows, place // pages.size] * pages.size + place % pages.size
    wide = [
        None if p is None else drawn(len(rows), p.shape[2] + 1, p.shape[3], seed=7, dtype=p.dtype)
        for p in (keys, values)
    ]
    key, value = (None if w is None else w[:, 1:] for w in wide)
    assert key is not None
    return Entries(key, value, slots)


@compiled
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_the_compiled_decode_equals_the_plain_one(data: st.DataObject) -> None:
    draw = data.draw
    kv, group = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    dims = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 64, 80, 128]))
    dim, seed, size = draw(dims), draw(st.integers(0, 99)), draw(st.sampled_from(SIZES))
    latent = draw(st.booleans())
    inner = draw(st.integers(1, dim)) if latent else draw(dims)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    span = draw(st.sampled_from(SPANS))
    positions = draw(st.lists(st.integers(0, 9 * size), min_size=1, max_size=5))
    heads = kv * group
    scores = Scores(
        dim**-0.5,
        draw(st.sampled_from([None, 1.5])),
        alibi_slopes(heads) if draw(st.booleans()) else None,
        drawn(heads, seed=seed + 1, dtype=dtype) if draw(st.booleans()) else None,
    )
    query = drawn(len(positions), heads, dim, seed=seed + 2, dtype=dtype)
    keys = drawn(60, size, kv, dim, seed=seed + 3, dtype=dtype)
    values = None if latent else drawn(60, size, kv, inner, seed=seed + 4, dtype=dtype)
    pages = pages_of(span, positions, 60, seed, size)
    fresh = fresh_entries(pages, keys, values) if draw(st.booleans()) else None
    pools = [None if pool is None else pool.clone() for pool in (keys, values)]
    assert pools[0] is not None
    found = decode(query, pools[0], pools[1], inner, pages, scores, Scratch(), fresh)
    if fresh is not None:
        fresh.store(keys, values)
        assert torch.equal(pools[0], keys) and (values is None or torch.equal(pools[1], values))
    expected = plain(query, keys, values, inner, pages, scores, Scratch())
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(found.float(), expected.float(), atol=tolerance, rtol=tolerance)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_a_row_alone_is_the_row_in_a_batch_to_the_bit(size: int, dtype: torch.dtype) -> None:
    positions = [3, 0, 29, 12, 17]
    query, keys, values = (
        drawn(5, 6, 16, seed=0, dtype=dtype),
        drawn(50, size, 2, 16, seed=1, dtype=dtype),
        drawn(50, size, 2, 16, seed=2, dtype=dtype),
    )
    pages = pages_of(Full(), positions, 50, 3, size)
    together = decode(query, keys, values, 16, pages, Scores(0.25), Scratch())
    for i in range(5):
        own = Pages(Full(), size, *(x[i : i + 1] for x in (pages.table, pages.starts, pages.first, pages.last)))
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
@pytest.mark.parametrize("layout", ["panels", "onednn"])
def test_packed_weights_give_the_same_logits(
    name: str, dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (packed.supported(dtype) if layout == "onednn" else dtype in native.linear_types()):
        pytest.skip(f"no use for {dtype} in {layout} here")
    if layout == "onednn":
        monkeypatch.setattr(native, "linear_types", frozenset)
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
