"""A server process whose model computes nothing: `python -m tests.hollow` with the server's flags and these:

    --forward-ms 25    what the hollow forward takes, in small operations of torch on --threads (1) threads
    --experts 8        16 mixture layers of so many experts, two active; 0 for a dense model
    --observer off     nobody hears of steps and requests
    --tuning off       the interpreter and the threads of libraries stay as they are by default
    --switch-ms 5      how long a thread may keep the others waiting for the interpreter

Everything else is the real server: engine, runner, batches, sampling, both transports. On SIGUSR1 it prints one line,
"phases {…}": processor seconds and calls of each phase so far, by the thread that spent them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from model.config import Architecture, Attention, Block, FeedForward, Grouped, MoE
from model.moe import Routing
from model.tokenizer import ByteTokenizer
from model.transformer import StepInput, StepOutput
from server import __main__ as entry
from server import process
from server.config import Settings
from server.engine.engine import Engine
from server.engine.runner import ModelRunner, Room
from server.engine.stats import Observer, RequestStats, StepStats
from server.models import ServedModel

VOCAB, WIDTH, CONTEXT, LAYERS = 8192, 768, 4096, 16
LETTERS = range(97, 123)  # what it says: bytes that are whole characters

PLACES = {
    "step": "server.engine.engine:Engine.step",
    "schedule": "server.engine.scheduler:Scheduler.schedule",
    "inputs": "server.engine.runner:ModelRunner._inputs",
    "forward": f"{__name__}:Hollow.forward",
    "sample": "server.engine.runner:ModelRunner._sample",
    "routes": "server.engine.results:Routed.of",
    "settle": "server.engine.engine:Engine._settle",
    "report": "server.engine.engine:Engine._report",
    "hand over": "server.engine.loop:EngineLoop._step",
    "deliver": "server.engine.loop:EngineLoop._deliver",
    "text": "server.generation:Choice.read",
    "event": "server.transport.rest.writers:Writer.event",
    "message": "server.transport.rpc.convert:stream_response",
}
"""Phase → the function whose time it is. "step" holds those down to "report", "hand over" holds "step"."""


class Hollow(nn.Module):
    """A Transformer to its runner; its logits are the same for every step, its routes too."""

    def __init__(self, architecture: Architecture, rows: int, tokens: int, forward_ms: float) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Embedding(1, 1, dtype=torch.bfloat16).requires_grad_(False)
        self.encoder = None
        letters = torch.randint(LETTERS.start, LETTERS.stop, (rows,), generator=torch.Generator().manual_seed(0))
        self.logits = torch.randn(rows, VOCAB).index_put_((torch.arange(rows), letters), torch.tensor(20.0))
        self.routings = tuple(_routing(mixture, tokens) for _, mixture in architecture.mixtures)
        self._x, self._y = torch.randn(1 << 15), torch.empty(1 << 15)
        self._operations = self._count(forward_ms)

    def forward(self, step: StepInput) -> StepOutput:
        self._work(self._operations)
        count = len(step.tokens)
        routings = tuple(
            Routing(r.experts[:count], r.gates[:count], r.logits[:count], r.ranked[:count]) for r in self.routings
        )
        rows = count if step.select is None else len(step.select)
        return StepOutput(self.logits[:rows], routings)

    def _work(self, operations: int) -> None:
        for _ in range(operations):
            torch.exp(self._x, out=self._y)

    def _count(self, milliseconds: float) -> int:
        """Operations that take so long."""
        best = []
        for _ in range(20):
            began = time.perf_counter()
            self._work(50)
            best.append((time.perf_counter() - began) / 50)
        return round(milliseconds / 1e3 / min(best))


class Deaf:
    """An observer that notes nothing."""

    def received(self, model: str, prompt_tokens: int) -> None: ...

    def stepped(self, stats: StepStats) -> None: ...

    def finished(self, stats: RequestStats) -> None: ...


class Phases:
    """Processor seconds and calls by phase; a phase is measured by wrapping the function that it is."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PLACES, 0.0)
        self.calls = dict.fromkeys(PLACES, 0)
        self.wall = {"forward": 0.0, "step": 0.0}
        for name, place in PLACES.items():
            owner, attribute = find(place)
            setattr(owner, attribute, self._timed(name, getattr(owner, attribute)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        seconds, calls, wall, clock, watch = self.seconds, self.calls, self.wall, time.thread_time, time.perf_counter
        told = name in wall

        def timed(*arguments: Any, **more: Any) -> Any:
            began, since = clock(), watch()
            try:
                return call(*arguments, **more)
            finally:
                seconds[name] += clock() - began
                calls[name] += 1
                if told:
                    wall[name] += watch() - since

        return timed

    def tell(self) -> None:
        threads = {thread.native_id: thread.name for thread in threading.enumerate()}
        told = {"seconds": self.seconds, "calls": self.calls, "wall": self.wall, "threads": threads}
        print("phases", json.dumps(told), flush=True)


def find(place: str) -> tuple[Any, str]:
    """What holds a function, and its name there."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, attribute = path.split(".")
    for name in outer:
        owner = getattr(owner, name)
    return owner, attribute


def architecture(experts: int) -> Architecture:
    branch = MoE(experts, 2, FeedForward(WIDTH)) if experts else FeedForward(3072)
    return Architecture(VOCAB, WIDTH, CONTEXT, (Block((Attention(Grouped(12, 1, 8)), branch)),) * LAYERS)


def build(settings: Settings, observer: Observer, options: argparse.Namespace) -> list[ServedModel]:
    torch.set_num_threads(settings.threads or 1)
    shape = architecture(options.experts)
    room = Room(max(65_536, settings.max_rows * 1024), settings.max_rows, settings.max_batch_tokens)
    hollow = Hollow(shape, settings.max_rows, settings.max_batch_tokens, options.forward_ms)
    engine = Engine(
        "hollow",
        ModelRunner(hollow, room, VOCAB),  # type: ignore[arg-type]
        observer=Deaf() if options.observer == "off" else observer,
        max_batch_tokens=settings.max_batch_tokens,
        max_rows=settings.max_rows,
    )
    return [ServedModel("hollow", shape, ByteTokenizer(VOCAB), engine, "bfloat16", (1, 1))]


def _routing(mixture: MoE, tokens: int) -> Routing:
    logits = torch.randn(tokens, mixture.experts)
    ranked, experts = logits.softmax(-1).topk(mixture.active + 1, dim=-1)
    return Routing(experts[:, :-1], ranked[:, :-1], logits, ranked)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--forward-ms", type=float, default=0.0)
    parser.add_argument("--experts", type=int, default=0)
    parser.add_argument("--observer", choices=("on", "off"), default="on")
    parser.add_argument("--tuning", choices=("on", "off"), default="on")
    parser.add_argument("--switch-ms", type=float)
    options, flags = parser.parse_known_args(arguments)
    if options.tuning == "off":
        process.tune = process.settle = lambda: None  # type: ignore[assignment]
        process.patient_threads = contextlib.nullcontext  # type: ignore[assignment]
    phases = Phases()
    signal.signal(signal.SIGUSR1, lambda number, frame: phases.tell())

    def built(settings: Settings, observer: Observer, *, measures: bool = True) -> list[ServedModel]:
        if options.switch_ms is not None:
            sys.setswitchinterval(options.switch_ms / 1e3)
        return build(settings, observer, options)

    return entry.main(["--model", "hollow", *flags], built)


if __name__ == "__main__":
    code = main()
    gc.disable()
    sys.exit(code)
