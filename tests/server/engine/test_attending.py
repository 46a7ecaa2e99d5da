"""Attention of whole steps over pages: the compiled kernel equals the plain path, whatever stands beside whatever."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.cache import CacheEntry
from model.config import Chunk, Full, Indexer, Span, Window
from model.kernels import inplace, native
from model.kernels.attention import Scores, Selection
from model.paged import PagedCache, PagedView
from model.position import alibi_slopes
from server.engine.batch import Paging, group_view, layout_of
from server.engine.step import Row, Step
from tests.fakes import make_request

pytestmark = pytest.mark.skipif(native.library() is None, reason="no compiler here")
SPANS: list[Span] = [Full(), Window(1), Window(23), Window(70), Chunk(64), Chunk(33)]
Part = tuple[int, int, int]  # (start, count, tokens of the prompt) of a row
LONGEST = 200


def rows_of(parts: list[Part], span: Span, size: int, seed: int) -> tuple[Row, ...]:
    """Rows with pages of their own in random order; what no token of theirs sees was given back."""
    free = list(range(1, 1 + sum((start + count) // size + 1 for start, count, _ in parts)))
    random.Random(seed).shuffle(free)
    rows = []
    for number, (start, count, prompt) in enumerate(parts):
        low, end = span.first_visible(start) // size, (start + count - 1) // size + 1
        table = np.array([0] * low + [free.pop() for _ in range(end - low)], np.int64)
        request = make_request(range(prompt), 1, id=str(number), outputs=[*range(prompt, start + count)])
        rows.append(Row(request, start, count, (table,)))
    return tuple(rows)


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Attended:
    """A cache with random entries of rows, no numbers where no row has computed yet, and steps over it.

    What an indexer scores, the last numbers of keys, is whole: sums of it are exact, and many are equal.
    """

    def __init__(
        self,
        rows: tuple[Row, ...],
        span: Span,
        size: int,
        entry: CacheEntry,
        dtype: torch.dtype,
        indexer: Indexer | None = None,
    ) -> None:
        self.rows, self.span, self.size, self.dtype, self.indexer = rows, span, size, dtype, indexer
        self.small = 0 if indexer is None else indexer.dim
        used = 1 + max((int(row.tables[0].max()) for row in rows), default=0)
        self.cache = PagedCache((entry,), (used,), size, dtype)
        for seed, pool in enumerate((self.cache.keys[0], self.cache.values[0])):
            if pool is not None:
                pool[1:] = float("nan")
                for row in rows:
                    for at in range(span.first_visible(row.start) // size * size, row.start):
                        pool[int(row.tables[0][at // size]), at % size] = self.whole(
                            drawn(*pool.shape[2:], seed=1000 * int(row.request.id) + 2 * at + seed, dtype=dtype)
                        )

    def whole(self, key: Tensor) -> Tensor:
        if self.small:
            key[..., -self.small :] = key[..., -self.small :].round()
        return key

    def step(self, rows: tuple[Row, ...], heads: int, scores: Scores) -> Tensor:
        """Attention of these rows' tokens, whose queries and entries depend on who and where they are."""
        entry = self.cache.entries[0]
        kinds = (heads, entry.key_dim - self.small), (entry.heads, entry.key_dim), (entry.heads, entry.value_dim)
        tokens = [(int(row.request.id), at) for row in rows for at in range(row.start, row.start + row.count)]
        query, key, value = (
            torch.stack([drawn(*kind, seed=9000 + 1000 * who + 3 * at + i, dtype=self.dtype) for who, at in tokens])
            for i, kind in enumerate(kinds)
        )
        if (chooses := self.indexer) is not None:
            small = [
                drawn(chooses.heads, chooses.dim + 1, seed=7000 * who + at, dtype=self.dtype) for who, at in tokens
            ]
            asked, weights = torch.stack(small).round().split((chooses.dim, 1), dim=-1)
            scores = replace(scores, selection=Selection(asked, weights.squeeze(-1), chooses.top_k))
        view = group_view(layout_of(Step(1, rows)), 0, Paging(self.span, self.size, self.dtype))
        paged = PagedView(self.cache, (view,))
        return paged.attend(0, query, self.whole(key), None if entry.value_in_key else value, scores)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_compiled_step_equals_the_plain_one(data: st.DataObject) -> None:
    draw = data.draw
    kv, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 5, 8]))
    dim, inner = draw(st.sampled_from([16, 48, 64, 96])), draw(st.sampled_from([16, 48, 64]))
    latent = draw(st.booleans()) and inner <= dim
    indexer = None
    if latent and draw(st.booleans()):
        kv, indexer = (
            1,
            Indexer(draw(st.integers(1, 5)), 16 * draw(st.integers(1, 3)), draw(st.sampled_from([1, 9, 90]))),
        )
    stored = dim + (0 if indexer is None else indexer.dim)
    entry = CacheEntry(draw(st.sampled_from(SPANS)), kv, stored, inner, value_in_key=latent)
    size, seed = draw(st.sampled_from([4, 16, 24])), draw(st.integers(0, 99))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    counts = st.one_of(st.just(1), st.integers(2, LONGEST))
    part = st.tuples(st.integers(0, LONGEST), counts, st.sampled_from([1, 2 * LONGEST]))
    rows = rows_of(draw(st.lists(part, min_size=1, max_size=4)), entry.span, size, seed)
    scores = Scores(
        dim**-0.5,
        draw(st.sampled_from([None, 1.5])),
        alibi_slopes(kv * group) if draw(st.booleans()) else None,
        drawn(kv * group, seed=seed, dtype=dtype) if draw(st.booleans()) else None,
    )
    found = Attended(rows, entry.span, size, entry, dtype, indexer).step(rows, kv * group, scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inplace, "fits", lambda *args, **more: False)
        expected = Attended(rows, entry.span, size, entry, dtype, indexer).step(rows, kv * group, scores)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(found.float(), expected.float(), atol=tolerance, rtol=tolerance)


CHOOSING = pytest.mark.parametrize("indexer", [None, Indexer(3, 16, 20)], ids=["all keys", "some keys"])


def entry_of(span: Span, indexer: Indexer | None) -> CacheEntry:
    if indexer is None:
        return CacheEntry(span, 2, 64, 64)
    return CacheEntry(span, 1, 64 + indexer.dim, 64, value_in_key=True)


@CHOOSING
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("span", SPANS, ids=str)
def test_a_prompt_in_pieces_is_the_prompt_in_one_to_the_bit(
    span: Span, dtype: torch.dtype, indexer: Indexer | None
) -> None:
    built = native.library()
    if dtype == torch.bfloat16 and built is not None and built.dyno_features() & 4:
        pytest.skip("matrix tiles, which take many rows only, may round otherwise")
    entry, scores = entry_of(span, indexer), Scores(0.125)
    (whole,) = rows_of([(0, 190, 190)], Full(), 16, 1)  # whole tables: what was given back is not read
    once = Attended((whole,), span, 16, entry, dtype, indexer).step((whole,), 6, scores)
    pieces = Attended((whole,), span, 16, entry, dtype, indexer)
    cuts = [0, 1, 3, 63, 64, 66, 130, 189, 190]
    found = [
        pieces.step((Row(whole.request, start, stop - start, whole.tables),), 6, scores)
        for start, stop in itertools.pairwise(cuts)
    ]
    assert torch.equal(torch.cat(found), once)


@CHOOSING
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_alone_is_the_row_in_a_batch_to_the_bit(dtype: torch.dtype, indexer: Indexer | None) -> None:
    entry, scores = entry_of(Full(), indexer), Scores(0.125)
    rows = rows_of([(0, 100, 100), (50, 1, 9), (70, 60, 130), (0, 1, 1), (3, 190, 200), (88, 1, 89)], Full(), 16, 2)
    together = Attended(rows, Full(), 16, entry, dtype, indexer).step(rows, 6, scores)
    for row, own in zip(rows, together.split([row.count for row in rows]), strict=True):
        alone = Attended(rows, Full(), 16, entry, dtype, indexer).step((row,), 6, scores)
        assert torch.equal(alone, own)
