"""Single operations, plain against fast, in microseconds a call.

python -m tests.bench --only kernels
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from model.config import Full
from model.kernels import packed, paged
from model.kernels.attention import Scores
from tests.bench.figure import Figure, timed

ROWS, HEADS, KEY_HEADS, DIM, PAGE, LENGTH = 32, 12, 4, 64, 16, 208
SHAPES = ((256, 4096), (768, 6144))  # in, out
BUDGET = 0.25


def figures(quick: bool) -> Iterator[Figure]:
    """Every operation in every type that this machine has a fast form for."""
    budget = BUDGET / 5 if quick else BUDGET
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            if packed.supported(dtype):
                for rows, (width, out) in itertools.product((1, 4, 32), SHAPES[:1] if quick else SHAPES):
                    yield from linear(dtype, rows, width, out, budget)
            yield from attention(dtype, budget)


def linear(dtype: torch.dtype, rows: int, width: int, out: int, budget: float) -> Iterator[Figure]:
    """Several weights in turn, so that no call finds its own in the nearest cache."""
    weights = [torch.randn(out, width).to(dtype) for _ in range(6)]
    laid, x = [packed.lay_out(weight) for weight in weights], torch.randn(rows, width).to(dtype)
    plain_turn, packed_turn = itertools.cycle(weights), itertools.cycle(laid)
    name = f"linear {_short(dtype)} {rows} x {width} -> {out}"
    yield timed(f"{name}, plain", "us", lambda: F.linear(x, next(plain_turn)), budget)
    yield timed(f"{name}, packed", "us", lambda: packed.packed_linear(x, next(packed_turn), None), budget)


def attention(dtype: torch.dtype, budget: float) -> Iterator[Figure]:
    pages = -(-LENGTH // PAGE)
    keys, values = (torch.randn(ROWS * pages + 1, PAGE, KEY_HEADS, DIM).to(dtype) for _ in range(2))
    query, nothing = torch.randn(ROWS, HEADS, DIM).to(dtype), torch.zeros(ROWS, dtype=torch.long)
    table = torch.arange(1, 1 + ROWS * pages).view(ROWS, pages)
    seen = paged.Pages(Full(), PAGE, table, nothing, nothing, nothing + LENGTH - 1)
    arguments = (query, keys, values, DIM, seen, Scores(DIM**-0.5), paged.Scratch())
    name = f"attention {_short(dtype)} {ROWS} rows of {LENGTH}"
    yield timed(f"{name}, gathered", "us", lambda: paged.plain(*arguments), budget)
    yield timed(f"{name}, in place", "us", lambda: paged.decode(*arguments), budget)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
