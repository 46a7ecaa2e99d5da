"""Single operations, plain against fast, in microseconds a call.

python -m tests.bench --only kernels
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
import torch.nn.functional as F

from model.config import Full
from model.kernels import packed, paged, panels
from model.kernels.attention import Scores
from model.sampling import Draw, sample
from tests.bench.figure import Figure, timed

VOCAB = 8192
ROWS, HEADS, KEY_HEADS, DIM, PAGE, LENGTH = 32, 12, 4, 64, 16, 208
SHAPES = ((256, 4096), (768, 6144))  # in, out
BUDGET = 0.25


def figures(quick: bool) -> Iterator[Figure]:
    """Every operation in every type that this machine has a fast form for."""
    budget = BUDGET / 5 if quick else BUDGET
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            for rows, (width, out) in itertools.product((1, 4, 32), SHAPES[:1] if quick else SHAPES):
                yield from linear(dtype, rows, width, out, budget)
            yield from attention(dtype, budget)
        yield from sampling(budget)


def linear(dtype: torch.dtype, rows: int, width: int, out: int, budget: float) -> Iterator[Figure]:
    """As it is, laid out by oneDNN, in our own panels, and in panels of 12 and 8 bits. Several weights in turn, so that
    no call finds its own in the nearest cache."""
    weights, x = [torch.randn(out, width).to(dtype) for _ in range(6)], torch.randn(rows, width).to(dtype)
    forms: dict[str, tuple[list[Any], Callable[[Any], object]]] = {"plain": (weights, lambda w: F.linear(x, w))}
    if packed.supported(dtype):
        laid = [packed.lay_out(weight) for weight in weights]
        forms["packed"] = (laid, lambda w: packed.packed_linear(x, w, None))
    if panels.supported(weights[0]):
        for form in get_args(panels.Form):
            if form == "lossless" and dtype != torch.bfloat16:
                continue
            name = "panels" if form == "whole" else form
            forms[name] = ([panels.lay_out(w, form=form) for w in weights], lambda w: panels.linear(x, w))
    for name, (kept, call) in forms.items():
        turn = itertools.cycle(kept)
        full = f"linear {_short(dtype)} {rows} x {width} -> {out}, {name}"
        yield timed(full, "us", lambda call=call, turn=turn: call(next(turn)), budget)


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


def sampling(budget: float) -> Iterator[Figure]:
    """Tokens of 32 rows of random logits; about 800 of each make up 95 %."""
    logits = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    ways = {"greedy": (0.0, 0, 1.0), "drawn": (1.0, 0, 1.0), "top-p 0.95": (1.0, 0, 0.95), "top-k 50": (1.0, 50, 1.0)}
    for name, (temperature, top_k, top_p) in ways.items():
        draw = Draw([temperature] * ROWS, [top_k] * ROWS, [top_p] * ROWS, [0.0] * ROWS, [0.3] * ROWS)
        yield timed(f"sample {ROWS} x {VOCAB}, {name}", "us", lambda draw=draw: sample(logits, draw), budget)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
