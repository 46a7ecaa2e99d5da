"""The whole server as its users meet it: output tokens a second of a closed loop over REST and over gRPC, telemetry on.

python -m tests.bench --only service
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from client.launch import ServerProcess
from tests.bench.closed import Case, measure
from tests.bench.figure import Figure, of_runs
from tests.bench.shapes import SHAPES, write
from tests.bench.steps import fast_type

STREAMS = (1, 8, 32)
REPEATS = 3


def figures(quick: bool) -> Iterator[Figure]:
    """The shape `tiny-dense` (the server's own cost shows most on a small model); also `dense` where there is time."""
    for shape in ("tiny-dense",) if quick else ("tiny-dense", "dense"):
        yield from serving(shape, 1 if quick else REPEATS, (1, 8) if quick else STREAMS)


def serving(shape: str, repeats: int, streams: tuple[int, ...]) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as scratch:
        file = write(SHAPES[shape], Path(scratch) / f"{shape}.json")
        flags = [
            "--model",
            f"{shape}={file}",
            "--dtype",
            fast_type(),
            "--cache-tokens",
            "32768",
            "--queue-seconds",
            "600",
        ]
        with ServerProcess(flags) as server:
            for number, count in enumerate(streams):
                for transport, target in (("REST", server.http), ("gRPC", server.grpc)):
                    case = Case(count, requests=max(count, 4))
                    runs = [measure(target, shape, case, (number, i)).output_rate for i in range(repeats)]
                    yield of_runs(f"{shape} {transport}, {count} streams", "tokens/s", runs)
