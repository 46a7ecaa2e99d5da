"""How cost grows with the work: tokens a second against streams, context, experts and models; memory by its formula.

    python -m tests.bench.curves [streams context experts models memory] [--quick]

Prints a Markdown table each, as docs/performance.md has them, measured through the whole server over gRPC (random
weights have no text, so that REST would send few pieces). Bounded: a minute or two a table on a quiet machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.launch import ServerProcess
from model import machine
from model.config import Architecture
from model.footprint import BYTES, cache_bytes_per_token
from model.parameters import parameters
from tests.bench import processes
from tests.bench.closed import Case, LoadFailed, measure, measure_each
from tests.bench.shapes import SHAPES, mixture, write
from tests.bench.steps import fast_type

IDLE_SECONDS = 5.0
Rows = Iterator[Sequence[object]]


def streams(quick: bool) -> Rows:
    """`small-dense`, prompts and answers of 128 tokens."""
    yield "streams", "tokens/s", "a stream", "first token, ms", "between tokens, ms"
    with serving({"m": SHAPES["small-dense"]}, 256 * 288, "--max-rows", "256") as server:
        for count in (1, 8, 64) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256):
            done = measure(server.grpc, "m", Case(count, requests=max(count, 4)), (count,))
            rate, first, gap = done.output_rate, done.first_token.p50, done.inter_token.p50
            yield count, f"{rate:,.1f}", f"{rate / count:,.1f}", f"{first * 1e3:,.0f}", f"{gap * 1e3:.1f}"


def context(quick: bool) -> Rows:
    """`small-dense`, answers of 64 tokens that end at the context; decoding from the median gap between tokens."""
    yield "context", "first token, ms", "prompt tokens/s", "decode, 1 stream, tokens/s", "decode, 4 streams, tokens/s"
    with serving({"m": SHAPES["small-dense"]}, 5 * 8192) as server:
        for length in (256, 2048) if quick else (256, 512, 1024, 2048, 4096, 8192):
            alone = measure(server.grpc, "m", Case(1, length - 64, 64, requests=2), (length, 1))
            four = measure(server.grpc, "m", Case(4, length - 64, 64, requests=4), (length, 4))
            first, decodes = alone.first_token.p50, (1 / alone.inter_token.p50, 4 / four.inter_token.p50)
            yield length, f"{first * 1e3:,.0f}", f"{(length - 64) / first:,.0f}", *(f"{rate:,.1f}" for rate in decodes)


def experts(quick: bool) -> Rows:
    """Four layers of width 768, experts of 384 of which 2 are active: only the number of experts grows."""
    yield "experts", "parameters, M", "1 stream, tokens/s", "8 streams", "32 streams"
    for count in (8, 32) if quick else (8, 16, 32, 64, 128):
        shape = mixture(4, count, hidden=384)
        with serving({"m": shape}, 32 * 288) as server:
            rates = [measure(server.grpc, "m", Case(n, requests=max(n, 4)), (count, n)).output_rate for n in (1, 8, 32)]
        yield count, f"{parameters(shape).total / 1e6:,.0f}", *(f"{rate:,.1f}" for rate in rates)


def models(quick: bool) -> Rows:
    """Copies of `dense` (four layers of width 768) in one process, 8 streams spread evenly over them."""
    yield "models", "tokens/s of all", "between tokens, ms"
    for count in (1, 2) if quick else (1, 2, 4, 8):
        names = [f"m{number}" for number in range(count)]
        with serving(dict.fromkeys(names, SHAPES["dense"]), 8 * 288) as server:
            each = Case(8 // count, requests=max(16 // count, 2))
            done = measure_each(server.grpc, names, each, (count,))
        tokens, seconds = sum(one.output_tokens for one in done), max(one.seconds for one in done)
        yield count, f"{tokens / seconds:,.1f}", f"{sum(one.inter_token.p50 for one in done) / count * 1e3:.1f}"


def memory(quick: bool) -> Rows:
    """Resident set of the server after the whole cache was written once; the rest is Python, PyTorch and buffers."""
    yield "model", "weights, MB", "cache, MB", "resident, MB", "the rest, MB", "peak, MB", "idle, % of a core"
    dtype, tokens = fast_type(), 16384
    names = ("tiny-dense", "dense") if quick else ("tiny-dense", "dense", "small-dense", "small-moe", "latent")
    for name in names:
        shape = SHAPES[name]
        with serving({"m": shape}, tokens) as server:
            measure(server.grpc, "m", Case(4, prompt=1000, output=8, requests=tokens // 1000 + 4), (0,))
            assert server.pid is not None
            held, peak = processes.held_bytes({server.pid}), processes.peak_bytes(server.pid)
            idle = idle_share(server.pid)
        weights = parameters(shape).total * BYTES[dtype]
        cache = cache_bytes_per_token(shape, dtype) * tokens
        sizes = (weights, cache, held, held - weights - cache, peak)
        yield name, *(f"{size / 1e6:,.0f}" for size in sizes), f"{idle:.1%}"


CURVES: dict[str, Callable[[bool], Rows]] = {
    "streams": streams,
    "context": context,
    "experts": experts,
    "models": models,
    "memory": memory,
}


@contextmanager
def serving(shapes: Mapping[str, Architecture], cache_tokens: int, *flags: str) -> Iterator[ServerProcess]:
    """A server of these architectures with random weights, in the type this machine is fast in."""
    with tempfile.TemporaryDirectory() as scratch:
        named = [f"{name}={write(shape, Path(scratch) / f'{name}.json')}" for name, shape in shapes.items()]
        chosen = [part for name in named for part in ("--model", name)]
        common = [
            "--dtype",
            fast_type(),
            "--cache-tokens",
            str(cache_tokens),
            "--queue",
            "512",
            "--queue-seconds",
            "600",
        ]
        with ServerProcess([*chosen, *common, *flags], ready_seconds=300.0) as server:
            yield server


def idle_share(pid: int) -> float:
    """Processor time that a server with nothing to do takes, of one core."""
    time.sleep(1.0)
    before = processes.used_seconds({pid})
    time.sleep(IDLE_SECONDS)
    return (processes.used_seconds({pid}) - before) / IDLE_SECONDS


def main() -> int:
    processes.end_orderly()
    parser = argparse.ArgumentParser("python -m tests.bench.curves", description=__doc__.split("\n")[0])
    parser.add_argument("curves", nargs="*", choices=[[], *CURVES], default=[], help="which; all when none is named")
    parser.add_argument("--quick", action="store_true", help="fewer points")
    options = parser.parse_args()
    print(f"{machine.words()}, {fast_type()}")
    for name in options.curves or CURVES:
        with processes.Others() as others:
            print(f"\n**{name}**: {CURVES[name].__doc__}\n")
            try:
                for number, row in enumerate(CURVES[name](options.quick)):
                    print(
                        "| " + " | ".join(map(str, row)) + " |" + ("\n|" + "--:|" * len(row)) * (number == 0),
                        flush=True,
                    )
            except LoadFailed as why:
                print(f"\nThe table ends early: {why}")
        doubt = ": not to be believed" if others.noisy else ""
        print(f"\nOthers used {others.cores:.2f} cores meanwhile{doubt}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
