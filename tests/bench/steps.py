"""Steps in process, in milliseconds: the forward pass of decoding and of prefill, and a whole step of the engine.

python -m tests.bench --only steps
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from model import steady
from model.initialise import random_model
from model.kernels import packed, passes
from server.build import build_model
from server.config import Settings
from tests.bench.figure import Figure, timed
from tests.bench.shapes import SHAPES, write
from tests.fakes import Recorder, make_request

KINDS = ("dense", "moe", "latent")
ROWS, CONTEXT, PROMPT = (1, 8, 32, 128), 256, 512
BUDGET = 1.0


def figures(quick: bool) -> Iterator[Figure]:
    """Four layers of width 768 of every kind."""
    budget, dtype = BUDGET / 4 if quick else BUDGET, fast_type()
    for kind in KINDS[:1] if quick else KINDS:
        yield from forwards(kind, dtype, budget)
    yield engine_step("dense", dtype, 32, budget)


def fast_type() -> str:
    """bfloat16 where the processor has units for it."""
    return "bfloat16" if packed.supported(torch.bfloat16) else "float32"


def forwards(kind: str, dtype: str, budget: float) -> Iterator[Figure]:
    """Decode steps and a prefill of one shape, without engine and sampling."""
    model = random_model(SHAPES[kind], 0, getattr(torch, dtype)).eval().requires_grad_(False)
    passes.apply(model)
    for rows in ROWS:
        timing = steady.time_decode(model, rows, CONTEXT, budget)
        yield Figure(f"{kind} {dtype}, decode {rows} rows", timing.typical * 1e3, "ms", timing.spread)
    timing = steady.time_prefill(model, PROMPT, budget)
    yield Figure(f"{kind} {dtype}, prefill {PROMPT}", timing.typical * 1e3, "ms", timing.spread)


def engine_step(kind: str, dtype: str, rows: int, budget: float) -> Figure:
    """Scheduling, batch building, forward, sampling and accounts of a decode step."""
    with tempfile.TemporaryDirectory() as scratch:
        file = write(SHAPES[kind], Path(scratch) / f"{kind}.json")
        settings = Settings(
            model=(str(file),),
            dtype=dtype,
            cache_tokens=rows * 2 * CONTEXT,
            max_batch_tokens=8192,
            max_rows=rows,
            measure_machine=False,
        )
        engine = build_model(str(file), settings, Recorder()).engine
    for number in range(rows):
        engine.add(make_request(range(number, number + CONTEXT - 64), 2 * CONTEXT - (CONTEXT - 64), id=str(number)))
    while engine.num_waiting:
        engine.step()
    return timed(f"{kind} {dtype}, engine step {rows} rows", "ms", engine.step, budget)
