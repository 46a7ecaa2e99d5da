"""Single operations, plain against fast: microseconds a call, the lower quartile of many.

python -m tests.bench.kernels
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from model.config import Full
from model.kernels import packed, paged
from model.kernels.attention import Scores

ROWS, HEADS, KEY_HEADS, DIM, PAGE, LENGTH = 32, 12, 4, 64, 16, 208


def microseconds(call: Callable[[], object], calls: int = 40) -> float:
    times = []
    for _ in range(calls + 5):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.quantiles(times[5:], n=4)[0] * 1e6


def linear(dtype: torch.dtype, rows: int, width: int, out: int) -> None:
    """Several weights in turn, so that no call finds its own in the nearest cache."""
    weights = [torch.randn(out, width).to(dtype) for _ in range(6)]
    laid, x = [packed.lay_out(weight) for weight in weights], torch.randn(rows, width).to(dtype)
    plain_turn, packed_turn = itertools.cycle(weights), itertools.cycle(laid)
    plain = microseconds(lambda: F.linear(x, next(plain_turn)))
    fast = microseconds(lambda: packed.packed_linear(x, next(packed_turn), None))
    print(f"linear {dtype}, {rows} x {width} -> {out}: plain {plain:.0f}, packed {fast:.0f}")


def attention(dtype: torch.dtype) -> None:
    pages = -(-LENGTH // PAGE)
    keys, values = (torch.randn(ROWS * pages + 1, PAGE, KEY_HEADS, DIM).to(dtype) for _ in range(2))
    query, nothing = torch.randn(ROWS, HEADS, DIM).to(dtype), torch.zeros(ROWS, dtype=torch.long)
    table = torch.arange(1, 1 + ROWS * pages).view(ROWS, pages)
    seen = paged.Pages(Full(), PAGE, table, nothing, nothing, nothing + LENGTH - 1)
    arguments = (query, keys, values, DIM, seen, Scores(DIM**-0.5), paged.Scratch())
    gathered, in_place = (microseconds(lambda f=f: f(*arguments)) for f in (paged.plain, paged.decode))
    print(f"attention {dtype}, {ROWS} rows of {LENGTH}: gathered {gathered:.0f}, in place {in_place:.0f}")


def main() -> None:
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            if packed.supported(dtype):
                for rows, (width, out) in itertools.product((1, 4, 32), ((256, 4096), (768, 6144))):
                    linear(dtype, rows, width, out)
            attention(dtype)


if __name__ == "__main__":
    main()
