"""What `make demo` shows: one server with two embedded models, asked over both transports and put under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from client import talk
from client.api import GenerateRequest, Sampling
from client.compare.judge.findings import conclude
from client.compare.measure.bench import measure
from client.compare.plan.experiment import Architecture, Experiment
from client.compare.session import Screen
from client.compare.tell import report
from client.connect import connect
from client.launch import ServerProcess
from client.load.arrivals import Closed
from client.load.session import progress
from client.load.workload import Workload
from client.show import facts_view

DENSE, EXPERTS = "tales-dense", "tales-moe"
PROMPT = "Once upon a time there was a little"
TOKENS = 60
LOAD_SECONDS = 25


async def show(console: Console) -> None:
    """Raises ClientError when a step fails; the server is stopped in any case."""
    began = time.perf_counter()
    server = ServerProcess(["--model", DENSE, "--model", EXPERTS])
    console.print(f"Starting a server with [bold]{DENSE}[/] and [bold]{EXPERTS}[/] …")
    async with server:
        console.print(f"Ready after {time.perf_counter() - began:.1f} s: REST {server.http}, gRPC {server.grpc}\n")
        rest = await _generate(console, "REST, server-sent events", server.http)
        console.print(facts_view(rest.choice.facts), "")
        rpc = await _generate(console, "gRPC, server streaming", server.grpc)
        same = "the same tokens" if rest.choice.token_ids == rpc.choice.token_ids else "NOT the same tokens"
        console.print(f"Same prompt and seed: {same} over both transports.\n")
        await _compare(console, server.http)
    code = server.stop()
    console.print(f"Stopped with exit code {code}, {time.perf_counter() - began:.1f} s in all.")


async def _generate(console: Console, title: str, target: str) -> talk.Heard:
    console.rule(f"{EXPERTS} over {title}", align="left")
    console.print(PROMPT, end="", style="bold", highlight=False)
    sampling = Sampling(max_tokens=TOKENS, temperature=0.8, seed=11, ignore_eos=True)
    async with connect(target) as client:
        heard = await talk.stream(client, GenerateRequest(PROMPT, EXPERTS, sampling))
    console.print("\n")
    return heard


@contextmanager
def _at_most() -> Iterator[asyncio.Event]:
    """Set the event after LOAD_SECONDS: on a slow machine the load is cut short, as a demonstration should not take
    minutes."""
    stop = asyncio.Event()
    timer = asyncio.get_running_loop().call_later(LOAD_SECONDS, stop.set)
    try:
        yield stop
    finally:
        timer.cancel()


async def _compare(console: Console, target: str) -> None:
    """A closed loop on both models of the one server, turn and turn about."""
    console.rule("One load on both architectures", align="left")
    experiment = Experiment(
        name="demo",
        architectures=(Architecture("dense", DENSE, target), Architecture("experts", EXPERTS, target)),
        workload=Workload(requests=48, output_tokens=24, prompt_tokens=64),
        levels=(Closed(4),),
        requests=(48,),
        repeats=5,
    )
    with progress(console) as bar:
        results = await measure(experiment, stopping=_at_most, watcher=Screen(experiment, bar))
    console.print(report.view(conclude(results)), "")
