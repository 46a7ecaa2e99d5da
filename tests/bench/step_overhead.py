"""What a step costs outside the forward pass, through the whole server: REST and gRPC, 1, 32 and 256 streams.

    python -m tests.bench.step_overhead [--streams 1 32 256] [--transports rest grpc] [--forward-ms 0 25] [--seconds 4]
    python -m tests.bench.step_overhead --against observer=off      # the same twice in turn, with another flag
    python -m tests.bench.step_overhead --against tree=/other/copy  # the same twice in turn, with other code

The server is a real process whose model computes nothing (tests/hollow.py); a closed loop of streams asks it for 128
tokens after 128. Processor time is told, by phase and by thread, in microseconds a step: it drifts less than wall time
where others share the machine. Reading the clocks adds about 2 us to every call of a phase. "outside" is the share of
wall time in which no forward ran.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from dyno.inference.v1 import inference_pb2 as pb

PROMPT, OUTPUT = 128, 128
STREAMS_A_CHANNEL = 64
ROOT = Path(__file__).parents[2]
HEADERS = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
METHOD = "/dyno.inference.v1.InferenceService/StreamGenerate"


@dataclass
class Server:
    """A hollow server process, and what it tells of itself."""

    process: asyncio.subprocess.Process
    http: tuple[str, int]
    grpc: str

    async def phases(self) -> dict[str, Any]:
        """Seconds and calls by phase, processor seconds by thread, all since the start."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGUSR1)
        while not (line := await self.process.stdout.readline()).startswith(b"phases"):
            assert line, "the server ended"
        told: dict[str, Any] = json.loads(line.removeprefix(b"phases"))
        told["cpu"] = self._threads(told.pop("threads"))
        told["at"] = time.perf_counter()
        return told

    def _threads(self, names: dict[str, str]) -> dict[str, float]:
        spent = {"engine": 0.0, "event loop": 0.0, "others": 0.0}
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
                name = {"engine": "engine", "MainThread": "event loop"}.get(names.get(task.name, ""), "others")
                spent[name] += seconds
        return spent


@contextlib.asynccontextmanager
async def serving(*flags: str, tree: Path = ROOT) -> AsyncIterator[Server]:
    """`tree`: where the server's code is."""
    command = [sys.executable, "-m", "tests.hollow", "--port", "0", "--grpc-port", "0", "--log-level", "error", *flags]
    environment = os.environ | {"GOMP_SPINCOUNT": "10000", "PYTHONPATH": str(tree / "proto")}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tree, env=environment, stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"listening http=(\S+):(\d+) grpc=(\S+)\n", line)
        assert found, line
        server = Server(process, (found[1], int(found[2])), found[3])
        await _ready(server)
        yield server
    finally:
        process.terminate()
        await process.communicate()


async def _ready(server: Server) -> None:
    while True:
        reader, writer = await asyncio.open_connection(*server.http)
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if b" 200 " in answer[:20]:
            return
        await asyncio.sleep(0.1)


@dataclass
class Load:
    """A closed loop of streams; `messages` counts what arrived."""

    server: Server
    streams: int
    messages: int = 0
    tokens: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def start(self, transport: str) -> None:
        if transport == "grpc":
            local = [("grpc.use_local_subchannel_pool", 1)]
            count = -(-self.streams // STREAMS_A_CHANNEL)
            self.channels = [grpc.aio.insecure_channel(self.server.grpc, options=local) for _ in range(count)]
        one = {"rest": self._rest, "grpc": self._grpc}[transport]
        self.tasks = [asyncio.create_task(one(index)) for index in range(self.streams)]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for channel in self.channels:
            await channel.close()

    async def _rest(self, index: int) -> None:
        reader, writer = await asyncio.open_connection(*self.server.http)
        try:
            for turn in range(sys.maxsize):
                prompt = _prompt(index, turn)
                body = json.dumps({"prompt": prompt, "max_tokens": OUTPUT, "temperature": 0, "stream": True}).encode()
                writer.write(HEADERS + b"content-length: %d\r\n\r\n" % len(body) + body)
                data = b""
                while not data.endswith(b"0\r\n\r\n"):
                    data = await reader.read(1 << 16)
                    assert data, "the server hung up"
                    count = data.count(b'"choices"')
                    self.messages += count
                    self.tokens += count
        finally:
            writer.close()

    async def _grpc(self, index: int) -> None:
        channel = self.channels[index // STREAMS_A_CHANNEL]
        call = channel.unary_stream(METHOD, request_serializer=pb.StreamGenerateRequest.SerializeToString)
        for turn in range(sys.maxsize):
            sampling = pb.SamplingParameters(max_tokens=OUTPUT, temperature=0)
            request = pb.GenerateRequest(prompt=_prompt(index, turn), sampling=sampling)
            async for message in call(pb.StreamGenerateRequest(request=request)):
                self.messages += 1
                self.tokens += len(pb.StreamGenerateResponse.FromString(message).tokens)


def _prompt(index: int, turn: int) -> str:
    """No two share a first block."""
    return f"{index:06d} {turn:08d} ".ljust(PROMPT, "x")


@dataclass(frozen=True)
class Window:
    """What passed between two looks at a server under load."""

    steps: int
    seconds: float
    tokens: int
    messages: int
    phases: dict[str, float]
    cpu: dict[str, float]
    forward: float

    @property
    def outside(self) -> float:
        return 1 - self.forward / self.seconds

    @property
    def us_a_token(self) -> float:
        """Processor time outside the forward pass."""
        return (sum(self.cpu.values()) - self.phases["forward"]) / self.tokens * 1e6


async def measure(server: Server, transport: str, streams: int, seconds: float) -> Window:
    load = Load(server, streams)
    load.start(transport)
    await asyncio.sleep(1.0)
    before, tokens, messages = await server.phases(), load.tokens, load.messages
    await asyncio.sleep(seconds)
    after, tokens, messages = await server.phases(), load.tokens - tokens, load.messages - messages
    await load.stop()
    assert all(not task.done() or task.cancelled() for task in load.tasks), [t.exception() for t in load.tasks]
    await asyncio.sleep(0.2)
    return Window(
        steps=after["calls"]["step"] - before["calls"]["step"],
        seconds=after["at"] - before["at"],
        tokens=tokens,
        messages=messages,
        phases={name: after["seconds"][name] - before["seconds"][name] for name in after["seconds"]},
        cpu={name: after["cpu"][name] - before["cpu"][name] for name in after["cpu"]},
        forward=after["wall"]["forward"] - before["wall"]["forward"],
    )


INSIDE = ("schedule", "inputs", "sample", "routes", "settle", "report")
HEAD = (
    "transport", "streams", "forward", "ms/step", "outside", "tok/s", "msg/tok", "us/tok",
    *INSIDE, "step*", "loop*", "deliver", "text", "event", "write*", "others",
)  # fmt: skip


def row(transport: str, streams: int, window: Window) -> list[str]:
    """Microseconds of processor time a step; * is the rest of that thread."""
    us = {name: seconds / window.steps * 1e6 for name, seconds in (window.phases | window.cpu).items()}
    step = us["step"] - us["forward"] - sum(us[name] for name in INSIDE)
    event = us["event"] + us["message"]
    write = us["event loop"] - us["deliver"] - us["text"] - event
    cells = [*(us[name] for name in INSIDE), step, us["engine"] - us["step"], us["deliver"], us["text"], event]
    return [
        transport, str(streams), f"{window.forward / window.steps * 1e3:.2f}",
        f"{window.seconds / window.steps * 1e3:.2f}", f"{window.outside:.1%}", f"{window.tokens / window.seconds:.0f}",
        f"{window.messages / window.tokens:.2f}", f"{window.us_a_token:.1f}",
        *(f"{cell:.0f}" for cell in (*cells, write, us["others"])),
    ]  # fmt: skip


def show(cells: Sequence[str]) -> None:
    print(" ".join(cell.rjust(max(8, len(name))) for cell, name in zip(cells, HEAD, strict=True)), flush=True)


async def table(options: argparse.Namespace, flags: Sequence[str]) -> None:
    show(HEAD)
    for forward in options.forward_ms:
        for streams in options.streams:
            async with serving("--forward-ms", str(forward), "--max-rows", str(max(streams, 8)), *flags) as server:
                for transport in options.transports:
                    show(row(transport, streams, await measure(server, transport, streams, options.seconds)))


async def against(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Two servers in turn that differ in one flag or in their code: the median ratio of the second to the first."""
    name, _, value = options.against.partition("=")
    more, tree = ((), Path(value)) if name == "tree" else ((f"--{name}", value), ROOT)
    for forward in options.forward_ms:
        for streams in options.streams:
            common = ("--forward-ms", str(forward), "--max-rows", str(max(streams, 8)), *flags)
            async with serving(*common) as one, serving(*common, *more, tree=tree) as other:
                for transport in options.transports:
                    await _compare(options, transport, streams, one, other)


async def _compare(options: argparse.Namespace, transport: str, streams: int, one: Server, other: Server) -> None:
    speed, cost, outside = [], [], []
    for _ in range(options.rounds):
        first = await measure(one, transport, streams, options.seconds)
        second = await measure(other, transport, streams, options.seconds)
        if not first.tokens or not second.tokens:
            continue  # others had the machine for the whole window
        speed.append(second.tokens / second.seconds / first.tokens * first.seconds)
        cost.append(second.us_a_token / first.us_a_token)
        outside.append((first.outside, second.outside))
    middle = [statistics.median(side) for side in zip(*outside, strict=True)]
    print(
        f"{transport}, {streams} streams, {options.against}: tokens/s x {statistics.median(speed):.3f}, processor "
        f"time outside the forward pass x {statistics.median(cost):.3f}, outside {middle[0]:.1%} -> {middle[1]:.1%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--transports", nargs="+", default=["rest", "grpc"])
    parser.add_argument("--forward-ms", type=float, nargs="+", default=[0.0, 25.0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", metavar="FLAG=VALUE")
    options, flags = parser.parse_known_args()
    asyncio.run((against if options.against else table)(options, flags))


if __name__ == "__main__":
    main()
