"""What a streamed token costs over REST and over gRPC, on the server's and on the client's side.

    python -m tests.bench.transports [--streams 1 8 32] [--forward-ms 1] [--rounds 5] [flags of the server]

Our own client puts a closed loop on a server whose model computes nothing (tests/hollow.py), over both transports in
turn. Processor time is told in microseconds a token: the server's event loop and its other threads without the
engine's, the client's event loop and its other threads. Two rows of one run can be compared, and their ratio with that
of other code.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from client import loop
from client.connect import connect
from client.load.arrivals import Closed
from client.load.runner import Load, run
from tests.bench.closed import Case
from tests.bench.processes import Others
from tests.bench.step_overhead import Server, serving

VOCAB = 8192


@dataclass(frozen=True, slots=True)
class Cost:
    """One load over one transport. Processor time in microseconds a token."""

    rate: float  # tokens a second
    messages: float  # a token
    loop: float
    library: float
    client: float
    client_others: float
    foreign: float  # cores that other programs used

    @property
    def whole(self) -> float:
        return self.loop + self.library + self.client + self.client_others


async def measure(server: Server, transport: str, case: Case, seed: int) -> Cost:
    target = f"grpc://{server.grpc}" if transport == "grpc" else f"http://{server.http[0]}:{server.http[1]}"
    warm = Case(case.streams, output=8, requests=case.streams)
    async with connect(target) as client:
        await run(client, Load(warm.trace((seed, 0), VOCAB), Closed(case.streams), routing=None))
        load = Load(case.trace((seed, 1), VOCAB), Closed(case.streams), routing=None)
        with Others((server.process.pid,)) as others:
            theirs, ours = (await server.phases())["cpu"], _threads()
            done = await run(client, load)
            spent = {name: cpu - theirs[name] for name, cpu in (await server.phases())["cpu"].items()}
            own = {name: cpu - ours.get(name, 0.0) for name, cpu in _threads().items()}
    assert all(record.ok for record in done.records), next(r.error for r in done.records if not r.ok)
    tokens = sum(record.completion_tokens for record in done.records)
    main = own.pop(str(os.getpid()))
    messages = sum(len(set(record.arrivals)) for record in done.records)
    us = 1e6 / tokens
    return Cost(
        rate=tokens / done.seconds,
        messages=messages / tokens,
        loop=spent["event loop"] * us,
        library=spent["others"] * us,
        client=main * us,
        client_others=sum(own.values()) * us,
        foreign=others.cores,
    )


def _threads() -> Mapping[str, float]:
    """Processor seconds of this process by thread."""
    spent: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            spent[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return spent


HEAD = ("streams", "transport", "tok/s", "msg/tok", "loop", "library", "client", "c.others", "us/tok", "foreign")


def row(streams: int, transport: str, costs: list[Cost]) -> list[str]:
    """Medians of the rounds."""
    names = ("loop", "library", "client", "client_others", "whole")
    return [
        str(streams),
        transport,
        f"{median(cost.rate for cost in costs):.0f}",
        f"{median(cost.messages for cost in costs):.2f}",
        *(f"{median(getattr(cost, name) for cost in costs):.1f}" for name in names),
        f"{max(cost.foreign for cost in costs):.2f}",
    ]


async def compare(streams: int, options: argparse.Namespace, flags: list[str]) -> None:
    costs: dict[str, list[Cost]] = {"rest": [], "grpc": []}
    case = Case(streams, requests=max(4, options.turns * streams))
    more = ("--forward-ms", str(options.forward_ms), "--max-rows", str(max(streams, 8)), *flags)
    async with serving(*more) as server:
        for number in range(options.rounds):
            for transport, told in costs.items():
                told.append(await measure(server, transport, case, time.time_ns() + number))
    for transport, told in costs.items():
        print(" ".join(cell.rjust(9) for cell in row(streams, transport, told)))
    ratio = median(one.rate / other.rate for one, other in zip(costs["grpc"], costs["rest"], strict=True))
    more_us = median(one.whole - other.whole for one, other in zip(costs["grpc"], costs["rest"], strict=True))
    print(f"{streams} streams: gRPC / REST {ratio:.3f}, {more_us:+.1f} us of processor time a token", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--forward-ms", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=4, help="requests a stream")
    options, flags = parser.parse_known_args()
    print(" ".join(name.rjust(9) for name in HEAD))
    for streams in options.streams:
        loop.run(compare(streams, options, flags))


if __name__ == "__main__":
    main()
