"""What being scraped costs a server at work: 50 scrapes at once every five seconds, against none, in turn.

    python -m tests.bench.scrapes [--rounds 6] [--at-once 50] [--every 5]

`tales-moe` with 8 streams of 64 + 128 tokens in a closed loop. Processor time a burst, and tokens a second with and
without, as the median of the rounds' ratios: each round measures both, now this one first, now the other.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median

import aiohttp

from client.launch import ServerProcess
from model import machine
from tests.bench import processes
from tests.bench.closed import Case, measure

MODEL, VOCAB = "tales-moe", 4096
CASE = Case(8, prompt=64, output=128, requests=64)
IDLE_BURSTS = 10


@dataclass
class Scraper:
    """Asks for the metrics, `at_once` of them every so many seconds, on a thread of its own."""

    url: str
    at_once: int
    every: float
    seconds: list[float] = field(default_factory=list)  # of single scrapes

    async def burst(self, session: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(self._scrape(session) for _ in range(self.at_once)))

    async def _scrape(self, session: aiohttp.ClientSession) -> None:
        began = time.perf_counter()
        async with session.get(f"{self.url}/metrics") as response:
            await response.read()
        self.seconds.append(time.perf_counter() - began)

    async def _until(self, stop: threading.Event) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            while not stop.is_set():
                await self.burst(session)
                await asyncio.to_thread(stop.wait, self.every)

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._until(stop)))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def idle_cost(scraper: Scraper, pid: int) -> float:
    """Processor seconds of the server for a burst while it has nothing else to do."""

    async def bursts() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for _ in range(IDLE_BURSTS):
                await scraper.burst(session)

    before = processes.used_seconds({pid})
    asyncio.run(bursts())
    return (processes.used_seconds({pid}) - before) / IDLE_BURSTS


def compared(server: ServerProcess, scraper: Scraper, rounds: int) -> Iterator[tuple[float, float]]:
    """Tokens a second of each round, (without, with) scrapes."""
    for number in range(rounds):
        rates: dict[bool, float] = {}
        for scraped in (False, True) if number % 2 else (True, False):
            with scraper.running() if scraped else nullcontext():
                rates[scraped] = measure(server.grpc, MODEL, CASE, (number, int(scraped)), VOCAB).output_rate
        yield rates[False], rates[True]


def main() -> int:
    processes.end_orderly()
    parser = argparse.ArgumentParser("python -m tests.bench.scrapes", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--every", type=float, default=5.0)
    options = parser.parse_args()
    print(f"{machine.words()}\n\n| round | tokens/s | scraped | ratio |\n|--:|--:|--:|--:|")
    with ServerProcess(["--model", MODEL]) as server, processes.Others() as others:
        assert server.pid is not None
        scraper = Scraper(server.http, options.at_once, options.every)
        ratios = []
        for number, (without, scraped) in enumerate(compared(server, scraper, options.rounds), start=1):
            ratios.append(scraped / without)
            print(f"| {number} | {without:,.0f} | {scraped:,.0f} | {ratios[-1]:.3f} |", flush=True)
        times = sorted(scraper.seconds)
        burst = idle_cost(scraper, server.pid)
        with urllib.request.urlopen(f"{server.http}/metrics") as response:
            size = len(response.read())
    late = times[int(0.99 * (len(times) - 1))]
    print(f"\nThroughput under scrapes: {median(ratios):.3f} of that without.")
    print(f"A scrape of {size:,} bytes took {median(times) * 1e3:.1f} ms, 99 of 100 at most {late * 1e3:.1f} ms.")
    print(f"{options.at_once} at once: {burst * 1e3:.1f} ms of processor time, {burst / options.every:.2%} of a core.")
    print(f"Others used {others.cores:.2f} cores meanwhile.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
