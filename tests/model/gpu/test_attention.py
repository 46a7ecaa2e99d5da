"""Attention over pages by kernels of our own against the plain path, however a row's pages are split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import Chunk, Full, Span, Window
from model.kernels import paged
from model.kernels.attention import Scores, Selection
from model.kernels.gpu import attention
from model.kernels.paged import Entries, Pages, Scratch
from tests.model.gpu import DEVICE, ON_GPU, TYPES, draw, near
from tests.model.test_flex import LENGTHS, SCORES, SIZE, TOTAL, pages, pools

HEADS, DIM, VALUE_DIM = 6, 32, 16


def there(seen: Pages) -> Pages:
    tensors = {k: getattr(seen, k) for k in ("table", "starts", "first", "last", "new")}
    return replace(seen, **{k: None if t is None else t.to(DEVICE) for k, t in tensors.items()})


def moved(scores: Scores) -> Scores:
    tensors = {k: getattr(scores, k) for k in ("slopes", "sinks")}
    return replace(scores, **{k: None if t is None else t.to(DEVICE) for k, t in tensors.items()})


def cases() -> Iterator[Any]:
    """Every score with heads that share keys; with keys of their own, which an interpreter takes longest for, the least
    and the most there is of them. 20 programs split the pages of one key head in two, and of more not at all."""
    for kv_heads, programs in ((6, (1, 264)), (2, (1, 264)), (1, (1, 20, 264))):
        for name in ("plain", "all") if kv_heads == 6 and not ON_GPU else SCORES:
            for number in programs:
                yield pytest.param(kv_heads, SCORES[name], number, id=f"{kv_heads}-{name}-{number} programs")


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("kv_heads", "scores", "programs"), list(cases()))
@pytest.mark.parametrize("span", [Full(), Window(20), Chunk(24)], ids=lambda s: type(s).__name__)
def test_it_is_the_plain_path(
    span: Span, kv_heads: int, scores: Scores, programs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(kv_heads)
    monkeypatch.setattr(attention, "PROGRAMS", programs)
    seen, query = pages(span, padding=2), torch.randn(len(LENGTHS), HEADS, DIM)
    keys, values = pools(kv_heads, DIM, VALUE_DIM)
    expected = paged.plain(query, keys, values, VALUE_DIM, seen.part(len(query)), scores, Scratch())
    query, keys, values = (x.to(DEVICE, dtype) for x in (query, keys, values))
    assert attention.fits(query, keys, values, VALUE_DIM, scores)
    assert near(attention.decode(query, keys, values, there(seen), moved(scores), Scratch()), expected.to(DEVICE))


@pytest.mark.parametrize("heads", [20, 64])
def test_groups_of_many_heads(heads: int) -> None:
    seen, query, (keys, values) = pages(Full()), torch.randn(len(LENGTHS), heads, DIM), pools(1, DIM, VALUE_DIM)
    expected = paged.plain(query, keys, values, VALUE_DIM, seen, SCORES["plain"], Scratch())
    query, keys, values = (x.to(DEVICE) for x in (query, keys, values))
    assert attention.fits(query, keys, values, VALUE_DIM, SCORES["plain"])
    found = attention.decode(query, keys, values, there(seen), SCORES["plain"], Scratch())
    assert near(found, expected.to(DEVICE))
    assert not attention.fits(torch.randn(2, 65, DIM), keys, values, VALUE_DIM, SCORES["plain"])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("programs", [1, 264], ids=lambda n: f"{n} programs")
@pytest.mark.parametrize("added", [4, 21])
@pytest.mark.parametrize("span", [Full(), Window(20), Chunk(24)], ids=lambda s: type(s).__name__)
def test_what_a_step_adds_is_stored_and_seen(
    span: Span, added: int, programs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sequence adds some tokens over the border of a page, each a row that sees those before it."""
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "PROGRAMS", programs)
    alone = pages(span)
    begin = 34 - added
    last = torch.cat((alone.last[:-1], torch.arange(begin, 34)))
    first = torch.tensor([span.first_visible(position) for position in last.tolist()])
    new = torch.cat((alone.last[:-1], torch.full((added,), begin)))
    table, starts = (torch.cat((x[:-1], x[-1:].expand(added, *x.shape[1:]))) for x in (alone.table, alone.starts))
    free = sorted(set(range(1, TOTAL)) - set(alone.table.flatten().tolist()))
    table[-added:], starts[-added:] = torch.tensor([*free[:3], 0, 0]), 0  # from the beginning, whatever the span
    seen = Pages(span, SIZE, table, starts, first, last, new)
    page = table.gather(1, ((last - starts) // SIZE)[:, None])[:, 0]
    rows = len(last)
    projected = draw(rows, 4 * DIM, dtype=dtype).view(rows, 4, DIM)
    fresh = Entries(projected[:, 1:3], draw(rows, 2, VALUE_DIM, dtype=dtype), (page * SIZE + last % SIZE).to(DEVICE))
    query, stored = draw(rows, HEADS, DIM, dtype=dtype), [x.to(DEVICE, dtype) for x in pools(2, DIM, VALUE_DIM)]
    found_in = [pool.clone() for pool in stored]
    fresh.store(*stored)
    scores = SCORES["plain"]
    expected = attention.decode(query, *stored, there(replace(seen, new=None)), scores, Scratch())
    assert near(attention.decode(query, *found_in, there(seen), scores, Scratch(), fresh), expected)
    assert all(torch.equal(*pair) for pair in zip(found_in, stored, strict=True))


def test_what_nobody_wrote_is_not_read() -> None:
    seen, query, (keys, values) = pages(Full()), torch.randn(len(LENGTHS), HEADS, DIM), pools(2, DIM, VALUE_DIM)
    expected = paged.plain(query, keys, values, VALUE_DIM, seen, SCORES["plain"], Scratch())
    for row, last in enumerate(seen.last.tolist()):
        page, slot = seen.table[row, last // seen.size], last % seen.size + 1
        keys[page, slot:], values[page, slot:] = torch.nan, torch.nan
    found = attention.decode(*(x.to(DEVICE) for x in (query, keys, values)), there(seen), SCORES["plain"], Scratch())
    assert near(found, expected.to(DEVICE))


def test_a_row_that_sees_nothing_gets_nothing() -> None:
    seen = pages(Full(), padding=1)
    keys, values = (x.to(DEVICE) for x in pools(2, DIM, VALUE_DIM))
    query = draw(len(LENGTHS) + 1, HEADS, DIM)
    found = attention.decode(query, keys, values, there(seen), SCORES["plain"], Scratch())
    alone = attention.decode(query[:-1], keys, values, there(seen.part(len(LENGTHS))), SCORES["plain"], Scratch())
    assert near(found[:-1], alone)
    assert not found[-1].any()


@pytest.mark.parametrize("kv_heads", [1, 2, 80])
def test_entries_are_stored_where_they_belong(kv_heads: int) -> None:
    keys, values = (x.to(DEVICE) for x in pools(kv_heads, DIM, VALUE_DIM))
    projected = draw(5, (kv_heads + 2) * DIM).view(5, kv_heads + 2, DIM)
    slots = torch.tensor([16, 40, 41, 300, 17], device=DEVICE)
    fresh = Entries(projected[:, 1:-1], draw(5, kv_heads, VALUE_DIM), slots)
    expected = keys.clone(), values.clone()
    for pool, new in zip(expected, (fresh.key, fresh.value), strict=True):
        assert new is not None
        pool.flatten(0, 1)[slots] = new
    assert attention.lies_dense(fresh)
    attention.store(fresh, keys, values)
    assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])


@pytest.mark.parametrize(
    "scores",
    [Scores(1.0, bias=lambda x: x), Scores(1.0, selection=Selection(torch.empty(0), torch.empty(0), 1))],
    ids=["bias", "selection"],
)
def test_what_it_leaves_to_others(scores: Scores) -> None:
    query, (keys, values) = torch.randn(2, HEADS, DIM), pools(2, DIM, VALUE_DIM)
    assert not attention.fits(query, keys, values, VALUE_DIM, scores)
    assert not attention.fits(query, keys, None, VALUE_DIM, SCORES["plain"])
    assert not attention.fits(torch.randn(2, HEADS, 20), keys, values, VALUE_DIM, SCORES["plain"])
    assert not attention.fits(torch.randn(HEADS, 2, DIM).transpose(0, 1), keys, values, VALUE_DIM, SCORES["plain"])
    assert not attention.lies_dense(Entries(torch.randn(3, DIM, 2).transpose(1, 2), None, torch.arange(3)))
