"""Attention over pages through FlexAttention: on the processor its plain form, which is all but the compiled kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import Chunk, Full, Span, Window
from model.kernels import flex, paged
from model.kernels.attention import Scores
from model.kernels.paged import Pages, Scratch

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

SIZE, TOTAL, WIDE = 16, 24, 5  # tokens a page, pages of the pool, columns of a page table
LENGTHS = (1, 16, 17, 70, 33)


def pages(span: Span, padding: int = 0) -> Pages:
    """Rows of LENGTHS positions whose pages lie anywhere, then rows that see nothing."""
    order = iter((torch.randperm(TOTAL - 1) + 1).tolist())
    first = [span.first_visible(length - 1) for length in LENGTHS] + [0] * padding
    last = [length - 1 for length in LENGTHS] + [-1] * padding
    table = [[next(order) for _ in range(f // SIZE, b // SIZE + 1)] for f, b in zip(first, last, strict=True)]
    full = torch.tensor([row + [0] * (WIDE - len(row)) for row in table])
    starts = torch.tensor([f // SIZE * SIZE for f in first])
    return Pages(span, SIZE, full, starts, torch.tensor(first), torch.tensor(last))


def pools(kv_heads: int, dim: int, value_dim: int) -> tuple[Tensor, Tensor]:
    keys, values = (torch.randn(TOTAL, SIZE, kv_heads, d) for d in (dim, value_dim))
    keys[0], values[0] = 1e4, 1e4  # nobody may look at page 0
    return keys, values


SCORES = {
    "plain": Scores(0.3),
    "softcap": Scores(0.3, softcap=2.0),
    "alibi": Scores(0.3, slopes=torch.tensor([0.1, 0.2, 0.3, 0.5, 0.7, 1.0])),
    "sinks": Scores(0.3, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, 3.0])),
    "all": Scores(0.3, 3.0, torch.linspace(0.1, 0.6, 6), torch.linspace(-1, 1, 6)),
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES.keys())
@pytest.mark.parametrize("kv_heads", [6, 2, 1])
@pytest.mark.parametrize("span", [Full(), Window(20), Chunk(24)], ids=lambda s: type(s).__name__)
def test_it_is_the_plain_path(span: Span, kv_heads: int, scores: Scores) -> None:
    torch.manual_seed(kv_heads)
    seen, query, (keys, values) = pages(span), torch.randn(len(LENGTHS), 6, 20), pools(kv_heads, 20, 18)
    expected = paged.plain(query, keys, values, 18, seen, scores, Scratch())
    assert torch.allclose(flex.decode(query, keys, values, 18, seen, scores), expected, atol=1e-5)


def test_values_may_be_the_beginning_of_the_keys() -> None:
    seen, query, (keys, _) = pages(Full()), torch.randn(len(LENGTHS), 6, 40), pools(1, 40, 1)
    expected = paged.plain(query, keys, None, 32, seen, SCORES["plain"], Scratch())
    assert torch.allclose(flex.decode(query, keys, None, 32, seen, SCORES["plain"]), expected, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True], ids=["queries fewer than pages", "queries padded too"])
def test_rows_that_fill_up_change_nothing(padded: bool) -> None:
    torch.manual_seed(0)
    seen, query, (keys, values) = pages(Window(20), padding=3), torch.randn(len(LENGTHS), 6, 20), pools(2, 20, 20)
    scores = SCORES["all"]
    expected = paged.plain(query, keys, values, 20, seen.part(len(query)), scores, Scratch())
    more = torch.cat((query, torch.randn(3, 6, 20))) if padded else query
    found = flex.decode(more, keys, values, 20, seen, scores)
    assert torch.allclose(found[: len(LENGTHS)], expected, atol=1e-5)
    assert found.isfinite().all() and len(found) == len(more)
    assert torch.allclose(paged.decode(query, keys, values, 20, seen, scores, Scratch()), expected, atol=1e-5)


def test_a_row_is_told_of_the_pages_up_to_its_own_position() -> None:
    seen = pages(Full(), padding=1)
    told = seen.blocks(TOTAL)
    assert told is seen.blocks(TOTAL), "made once for all layers of a step"
    assert told.counts.tolist() == [-(-length // SIZE) for length in LENGTHS] + [0]
    for row, count in enumerate(told.counts.tolist()):
        own = seen.table[row, :count]
        assert told.where[row, own].tolist() == [SIZE * i for i in range(count)]
        assert (told.where[row] >= 0).sum() == count
    assert (told.where[:, 0] == -1).all()


@pytest.mark.parametrize(
    ("dims", "scores", "expected"),
    [
        ((16, 16, 16), Scores(1.0), True),
        ((8, 16, 16), Scores(1.0), False),
        ((16, 8, 16), Scores(1.0), False),
        ((16, 16, 8), Scores(1.0), False),
        ((64, 64, 48), Scores(1.0), False),
        ((576, 512, 64), Scores(1.0, softcap=5.0, sinks=torch.zeros(4)), True),
        ((64, 64, 64), Scores(1.0, bias=lambda distance: distance), False),
    ],
)
def test_what_has_no_kernel_is_left_to_the_plain_path(
    dims: tuple[int, int, int], scores: Scores, expected: bool
) -> None:
    dim, value_dim, size = dims
    assert flex.fits(torch.empty(1, 4, dim), torch.empty(2, size, 1, dim), value_dim, scores) is expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiler_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that is made for a processor wants the table as wide as the pool; a GPU's does not."""
    torch.manual_seed(0)
    seen, query, (keys, values) = pages(Window(20)), torch.randn(len(LENGTHS), 4, 32), pools(2, 32, 32)
    plain_form = flex._form
    wide = torch.cat((seen.table, seen.table.new_zeros(len(LENGTHS), TOTAL - WIDE)), dim=1)
    seen = Pages(seen.span, SIZE, wide, seen.starts, seen.first, seen.last)
    scores = Scores(0.3, softcap=2.0, slopes=torch.linspace(0.1, 0.4, 4))
    expected = paged.plain(query, keys, values, 32, seen, scores, Scratch())
    monkeypatch.setattr(flex, "_form", lambda *form: flex._compiled(plain_form(*form)))
    with torch.inference_mode():
        found = flex.decode(query, keys, values, 32, seen, scores)
    assert torch.allclose(found, expected, atol=1e-5)
