"""How long a server takes from the start of its process to its first token, on an embedded model.

    python -m tests.bench.start [--model tales-dense] [--repeats 5]

Warm: what is compiled and measured for this machine is on disk. Cold: nothing is, as the first time after installing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from unittest import mock

from client.launch import ServerProcess
from tests.bench.closed import Case, measure
from tests.bench.processes import end_orderly


def start_seconds(model: str) -> tuple[float, float]:
    """(ready, first token), both from the start of the process."""
    began = time.perf_counter()
    with ServerProcess(["--model", model]) as server:
        ready = time.perf_counter() - began
        first = measure(server.http, model, Case(1, prompt=8, output=1, requests=1), (0,), vocab=400)
        return ready, ready + first.first_token.p50


def cold_start_seconds(model: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, {"XDG_CACHE_HOME": empty}):
        return start_seconds(model)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.bench.start", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tales-dense")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    end_orderly()
    start_seconds(options.model)  # so that the files are in memory and what is built is built
    print("| start | ready, s | first token, s |\n|---|--:|--:|")
    for name, start in (("warm", start_seconds), ("cold", cold_start_seconds)):
        ready, first = zip(*(start(options.model) for _ in range(options.repeats)), strict=True)
        print(f"| {name} | {statistics.median(ready):.2f} | {statistics.median(first):.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
