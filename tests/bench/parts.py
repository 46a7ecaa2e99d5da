"""Which part of a forward pass takes how long on the processor: what comes before attention in a block, attention, what
comes after it, and the rest.

    python -m tests.bench.parts FOLDER [--rows 1 8 32] [--length 192] [--prompts 1024] [--weights int8]

FOLDER is a checkpoint of blocks that are fused (model/kernels/fused.py). Blocks are not joined here, so that each part
is a call of its own: the whole takes a few hundredths longer than when served. Medians, in milliseconds, bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args
from unittest import mock

import torch

from model.checkpoint.loading import load_any
from model.kernels import inplace, layers, native, panels, passes
from model.kernels.after import After
from model.kernels.before import GroupedBefore
from model.kernels.latent import LatentBefore
from model.steady import prompt_inputs, steady_inputs
from model.transformer import StepInput, Transformer

CALLS = (
    ("before", GroupedBefore, "__call__"),
    ("before", LatentBefore, "__call__"),
    ("attention", inplace, "attend"),
    ("after", After, "__call__"),
)
PARTS = tuple(dict.fromkeys(part for part, _, _ in CALLS))
RUNS = 20


def measure(model: Transformer, inputs: Sequence[StepInput]) -> dict[str, float]:
    """Median seconds of each part, of what is left, and of the whole."""
    runs: list[dict[str, float]] = []
    for number in range(RUNS + 3):  # the first ones warm up
        spent = dict.fromkeys(PARTS, 0.0)
        with contextlib.ExitStack() as patches:
            for part, owner, name in CALLS:
                patches.enter_context(mock.patch.object(owner, name, _timed(getattr(owner, name), part, spent)))
            began = time.perf_counter()
            model(inputs[number % len(inputs)])
            whole = time.perf_counter() - began
        runs.append({**spent, "rest": whole - sum(spent.values()), "whole": whole})
    return {part: statistics.median(run[part] for run in runs[3:]) for part in runs[0]}


def _timed(call: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            spent[part] += time.perf_counter() - began

    return run


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.parts", description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--weights", choices=get_args(panels.Form), default="lossless")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--length", type=int, default=192)
    parser.add_argument("--prompts", type=int, nargs="*", default=[1024])
    options = parser.parse_args()
    with mock.patch.object(layers, "join", lambda model: 0):
        model = load_any(options.folder, torch.bfloat16).model.requires_grad_(False).eval()
        model = passes.apply(model, form=options.weights)
    print("".join(name.rjust(12) for name in ("step", *PARTS, "rest", "whole")))
    steps = [(f"{n} rows", lambda n=n: steady_inputs(model, n, options.length)) for n in options.rows]
    steps += [(f"prompt {n}", lambda n=n: prompt_inputs(model, n)) for n in options.prompts]
    with torch.inference_mode(), native.alone(passes.lean(model)):
        for name, inputs in steps:
            cells = (f"{seconds * 1e3:.2f}" for seconds in measure(model, inputs()).values())
            print("".join(cell.rjust(12) for cell in (name, *cells)), flush=True)


if __name__ == "__main__":
    main()
