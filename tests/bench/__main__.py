"""The benchmark suite: single operations, steps, the whole server, each against the stored baseline of this machine.

    python -m tests.bench [--only kernels steps service] [--match TEXT] [--quick] [--save]

A ratio above 1 is faster than the baseline. `!` marks what is not to be believed: repeats that differ by over 20 %, or
other programs that used over 0.15 cores meanwhile.
"""

from __future__ import annotations

import model.environment  # isort: skip  # noqa: F401  # before torch

import argparse
import sys
from collections.abc import Callable, Iterator

from model import machine
from tests.bench import kernels, service, steps
from tests.bench.baseline import Baseline
from tests.bench.figure import Figure
from tests.bench.processes import NOISY_CORES, Others, end_orderly

PARTS: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "kernels": kernels.figures,
    "steps": steps.figures,
    "service": service.figures,
}
WIDE_SPREAD = 0.2


def main() -> int:
    options = _options()
    end_orderly()
    baseline = Baseline()
    print(f"{machine.words()}; {baseline.origin()}")
    print(f"{'':46} {'now':>10} {'':8} {'ratio':>6} {'spread':>7} {'others':>7}")
    found: list[Figure] = []
    doubtful = 0
    for part in options.only:
        figures = PARTS[part](options.quick)
        while (measured := _next(figures)) is not None:
            figure, cores = measured
            if options.match not in figure.name:
                continue
            noisy = cores > NOISY_CORES or figure.spread > WIDE_SPREAD
            found.append(figure)
            doubtful += noisy
            _print(figure, baseline.speed(figure), cores, noisy)
    if doubtful:
        print(f"{doubtful} of {len(found)} figures are marked !: this machine is not quiet, their ratios say little")
    if options.save:
        baseline.save(found)
        print(f"saved {len(found)} figures to {baseline.path}")
    return 0


def _next(figures: Iterator[Figure]) -> tuple[Figure, float] | None:
    """The next figure, and the cores that others used while it was measured."""
    with Others() as others:
        figure = next(figures, None)
    return None if figure is None else (figure, others.cores)


def _print(figure: Figure, speed: float | None, cores: float, noisy: bool) -> None:
    ratio = "" if speed is None else f"{speed:.2f}"
    mark = " !" if noisy else ""
    print(
        f"{figure.name:46} {figure.value:10,.1f} {figure.unit:8} {ratio:>6} {figure.spread:7.0%} {cores:7.2f}{mark}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts of the suite")
    parser.add_argument("--match", default="", help="show and keep figures whose name has this text in it")
    parser.add_argument("--quick", action="store_true", help="fewer cases, less time for each")
    parser.add_argument("--save", action="store_true", help="make what is measured now the baseline")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
