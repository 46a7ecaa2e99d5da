"""What a decode step costs outside the model, with 32 and with 256 requests, in processor time.

    python -m tests.bench.scheduler_overhead [--steps 400]

The runner answers at once with the same result every time; what it takes itself is measured and subtracted.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from itertools import count

import numpy as np

from model.config import Full, Window
from server.engine.engine import Engine
from server.engine.request import Routes
from server.engine.step import CacheGroup, MixtureShape, Step, StepResult
from tests.fakes import Recorder, costs_of, make_request

MIXTURES = tuple(MixtureShape(layer, 64, 4) for layer in range(8))


class Instant:
    """A Runner that computes nothing; `spent` adds up the seconds it takes all the same."""

    block_size = 16
    memory = None

    def __init__(self, groups: tuple[CacheGroup, ...], mixtures: tuple[MixtureShape, ...]) -> None:
        self.groups, self.mixtures = groups, mixtures
        self.costs = costs_of(groups, self.block_size, mixtures)
        self.spent = 0.0
        rng = np.random.default_rng(0)
        shape = (8192, len(mixtures), 4)
        gates, margins = np.full(shape, 0.25, np.float32), np.zeros(shape[:2], np.float32)
        self._routes = Routes(rng.integers(0, 64, shape, dtype=np.int16), gates, margins)

    def run(self, step: Step) -> StepResult:
        began = time.thread_time()
        draws = sum(len(row.wanted) for row in step.rows)
        routes = self._routes.part(0, step.num_tokens) if self.mixtures else None
        result = StepResult((1,) * draws, (None,) * draws, routes)
        self.spent += time.thread_time() - began
        return result


def measure(rows: int, steps: int, groups: tuple[CacheGroup, ...], mixtures: tuple[MixtureShape, ...]) -> list[float]:
    """Seconds of each decode step with `rows` requests, the runner's own time taken off."""
    runner = Instant(groups, mixtures)
    engine = Engine("bench", runner, observer=Recorder(), max_batch_tokens=8192, max_rows=rows)
    for number, first in zip(range(rows), count(1000), strict=False):
        engine.add(make_request([first] * 64, steps + 8, id=str(number)))
    engine.step()
    seconds = []
    for _ in range(steps):
        before, began = runner.spent, time.thread_time()
        engine.step()
        seconds.append(time.thread_time() - began - (runner.spent - before))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    full = CacheGroup(Full(), 256 * 64, 1024)
    window = CacheGroup(Window(128), 256 * 64, 1024)
    cases = {
        "one full group": ((full,), ()),
        "full + window": ((full, window), ()),
        "full, 8 x 64 experts top-4": ((full,), MIXTURES),
    }
    print(f"{'case':28} {'rows':>5} {'us a row':>9} {'ms a step':>10} {'best':>8} {'p99':>8}")
    for name, (groups, mixtures) in cases.items():
        for rows in (32, 256):
            gc.collect()
            seconds = sorted(measure(rows, steps, groups, mixtures))
            middle, late = statistics.median(seconds), seconds[int(0.99 * (len(seconds) - 1))]
            best, row, step = (s * 1e3 for s in (seconds[0], middle / rows * 1e3, middle))
            print(f"{name:28} {rows:5d} {row:9.2f} {step:10.3f} {best:8.3f} {late * 1e3:8.3f}")


if __name__ == "__main__":
    main()
