"""Where a step's tokens are put and what they see, held to the same worked out token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.config import Chunk, Full, Span, Window
from model.paged import GroupView
from server.engine.batch import Paging, group_view, layout_of, select, tokens_of
from server.engine.step import Row, Step
from tests.fakes import make_request

PAGE = 4
SPANS: tuple[Span, ...] = (Full(), Window(6), Chunk(8))


def row(
    start: int, count: int, known: int, drafts: int = 0, *, prompt: int | None = None, first: int = 0, id: int = 0
) -> Row:
    """A row of a request with so many known tokens, of which `prompt` (None: all) are its prompt's; the table begins
    with `first` pages that were given back."""
    tokens = [id * 100 + at for at in range(known)]
    request = make_request(tokens[:prompt], 9, id=str(id), outputs=tokens[known if prompt is None else prompt :])
    pages = -(-(start + count) // PAGE)
    table = np.array([0] * first + [1 + id * 50 + at for at in range(first, pages)])
    return Row(request, start, count, (table,), drafts=tuple(range(drafts)))


def rows(span: Span) -> tuple[Row, ...]:
    """A decode, a fresh prompt, a decode of a longer one, drafts, a prompt that goes on, the last token of a prompt,
    and outputs that are computed again."""
    low = [span.first_visible(start) // PAGE for start in (9, 0, 37, 18, 21, 26, 11)]
    return (
        row(9, 1, 10, prompt=9, first=low[0], id=1),
        row(0, 7, 9, first=low[1], id=2),
        row(37, 1, 38, prompt=30, first=low[2], id=3),
        row(18, 3, 19, 2, prompt=17, first=low[3], id=4),
        row(21, 5, 26, first=low[4], id=5),
        row(26, 1, 27, first=low[5], id=6),
        row(11, 3, 15, prompt=11, first=low[6], id=7),
    )


ALONE = (0, 2, 3)
"""Rows whose tokens are outputs and drafts, attended one by one; those of all others go together, even a single one."""


def view_of(rows: tuple[Row, ...], span: Span) -> GroupView:
    return group_view(layout_of(Step(1, rows)), 0, Paging(span, PAGE, torch.float32))


def slot(row: Row, position: int) -> int:
    return int(row.tables[0][position // PAGE]) * PAGE + position % PAGE


def places(rows: tuple[Row, ...]) -> list[tuple[Row, int]]:
    return [(row, position) for row in rows for position in range(row.start, row.start + row.count)]


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("chosen", [(0,), (0, 2), (1,), (3,), (5,), (0, 5), (0, 1, 2, 3, 4, 5, 6)], ids=str)
class TestEveryToken:
    def test_is_stored_in_its_own_slot(self, span: Span, chosen: tuple[int, ...]) -> None:
        some = tuple(rows(span)[i] for i in chosen)
        assert view_of(some, span).slots.tolist() == [slot(row, at) for row, at in places(some)]

    def test_that_reads_in_place_sees_every_visible_position_of_its_row(
        self, span: Span, chosen: tuple[int, ...]
    ) -> None:
        some = tuple(rows(span)[i] for i in chosen)
        lonely = {some[at].request.id for at, i in enumerate(chosen) if i in ALONE}
        alone = [i for i, (row, _) in enumerate(places(some)) if row.request.id in lonely]
        decode = view_of(some, span).decode
        if decode is None:
            assert not alone
            return
        assert decode.tokens.tolist() == alone
        pages = decode.pages
        for at, token in enumerate(alone):
            row, position = places(some)[token]
            assert (pages.first[at], pages.last[at]) == (span.first_visible(position), position)
            for seen in range(span.first_visible(position), position + 1):
                page, offset = divmod(seen - int(pages.starts[at]), PAGE)
                assert pages.table[at, page] * PAGE + offset == slot(row, seen)

    def test_of_a_stretch_has_the_pages_it_attends_over(self, span: Span, chosen: tuple[int, ...]) -> None:
        some = tuple(rows(span)[i] for i in chosen)
        longer = [some[at] for at, i in enumerate(chosen) if i not in ALONE]
        stretches = view_of(some, span).stretches
        assert len(stretches) == len(longer)
        for row, stretch in zip(longer, stretches, strict=True):
            own = [at for at, place in enumerate(places(some)) if place[0] is row]
            assert own == [*range(stretch.start, stretch.stop)]
            low = span.first_visible(row.start) // PAGE
            assert stretch.table[0].tolist() == row.tables[0][low : (row.start + row.count - 1) // PAGE + 1].tolist()
            assert (stretch.position, stretch.base) == (row.start, low * PAGE)

    def test_knows_the_first_position_it_sees(self, span: Span, chosen: tuple[int, ...]) -> None:
        some = tuple(rows(span)[i] for i in chosen)
        firsts = view_of(some, span).firsts
        assert firsts is not None
        assert firsts.tolist() == [span.first_visible(position) for _, position in places(some)]


def test_no_page_of_anybody_stands_behind_the_end_of_a_row() -> None:
    """A short row beside a long one: what pads its table is page 0, which nobody ever holds."""
    short, long = rows(Full())[0], rows(Full())[2]
    decode = view_of((short, long), Full()).decode
    assert decode is not None
    assert decode.pages.table.tolist() == [[*short.tables[0], *[0] * 7], long.tables[0].tolist()]


def test_a_long_prompt_widens_no_table_of_the_others() -> None:
    decode = view_of((rows(Full())[0], row(0, 200, 200, id=7)), Full()).decode
    assert decode is not None and decode.pages.table.shape == (1, 3)


def test_logits_are_computed_where_they_are_wanted_and_at_the_end_of_every_row() -> None:
    """The decode's one; a prompt's last, though nothing is drawn; drafts and what is before; the last of two prompts;
    and of outputs that are not all computed again the last."""
    some = rows(Full())
    chosen = select(layout_of(Step(1, some)))
    assert chosen is not None and chosen.tolist() == [0, 7, 8, 9, 10, 11, 16, 17, 20]
    assert select(layout_of(Step(1, (some[0], some[2])))) is None


def test_tokens_come_row_by_row() -> None:
    some = rows(Full())
    assert tokens_of(Step(1, some[2:4])).tolist() == [337, 418, 0, 1]
    assert layout_of(Step(1, some[2:4])).positions.tolist() == [37, 18, 19, 20]
