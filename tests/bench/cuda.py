"""On a CUDA GPU: the service through HTTP against Transformers' `generate` in process, and the memory roofline.

    python -m tests.bench.cuda [--device cuda:0] [--streams 1 32] [--rounds 3] [--models dense experts]

A dense model of 1.0 B parameters and one of 1.1 B with 8 experts of which 2 are active, the same random bfloat16
weights for both sides; 128 tokens in, 128 out, greedy. Transformers runs a static batch; the service a closed loop,
telemetry on. The roofline is the least a decode step can take with the GPU's bandwidth, measured by reading. `forward`
is the time the GPU takes for a captured step of as many rows of 192 tokens, in process, with our kernels and with
PyTorch's alone. Prints two Markdown tables for docs/performance.md. `--rehearse` runs all of it with tiny models on the
processor: those figures say nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from client.launch import ServerProcess
from client.load.statistics import Summary
from model.checkpoint.loading import load_any, read_architecture
from model.kernels import gpu, passes
from model.roofline import Machine, roofline
from server.engine.gpu import PAGE_SIZE, GpuRunner
from server.engine.request import Request, Sampling
from server.engine.runner import Room
from server.engine.step import Row as StepRow
from server.engine.step import Step
from tests.bench import closed
from tests.bench.closed import FIRST_ID, Case

VOCAB, CONTEXT, PROMPT, OUTPUT = 8192, 4096, 128, 128
LARGE, SQUARE = 1 << 30, 8192  # bytes that are read, side of the product
LENGTH = PROMPT + OUTPUT // 2  # tokens of a row, on the average of an answer
HEAD = "| model | streams | Transformers, tokens/s | Dyno, tokens/s | ratio |"
STEPS = "| model | rows | least, ms | forward, ms | of the roofline | PyTorch's kernels, ms | ratio |"


@dataclass(frozen=True, slots=True)
class Shape:
    """What Transformers needs to make a checkpoint; `experts` 0 is a dense model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    experts: int = 0

    def write(self, folder: Path, device: torch.device) -> None:
        """Random weights in Hugging Face's layout, drawn on a device."""
        from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

        common: dict[str, Any] = {
            "vocab_size": VOCAB, "hidden_size": self.width, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "intermediate_size": self.hidden,
            "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        }  # fmt: skip
        torch.manual_seed(1234)
        with device:
            model = (
                MixtralForCausalLM(MixtralConfig(**common, num_local_experts=self.experts, num_experts_per_tok=2))
                if self.experts
                else LlamaForCausalLM(LlamaConfig(**common))
            )
        model.to(torch.bfloat16).save_pretrained(folder)


SHAPES = {"dense": Shape(22, 2048, 32, 4, 5632), "experts": Shape(12, 1024, 16, 4, 3584, experts=8)}
TINY = {"dense": Shape(2, 128, 4, 2, 256), "experts": Shape(2, 128, 4, 2, 128, experts=4)}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the service's table, in tokens a second."""

    model: str
    streams: int
    theirs: float
    ours: float

    def __str__(self) -> str:
        return (
            f"| {self.model} | {self.streams} | {self.theirs:,.1f} | {self.ours:,.1f} | {self.ours / self.theirs:.2f} |"
        )


@dataclass(frozen=True, slots=True)
class Forward:
    """One line of the table of steps, in seconds."""

    model: str
    rows: int
    least: float
    ours: float
    library: float

    def __str__(self) -> str:
        least, ours, library = (f"{seconds * 1e3:.2f}" for seconds in (self.least, self.ours, self.library))
        share, ratio = f"{self.least / self.ours:.0%}", f"{self.library / self.ours:.2f}"
        return f"| {self.model} | {self.rows} | {least} | {ours} | {share} | {library} | {ratio} |"


def seconds(call: Callable[[], object], device: torch.device, times: int = 20) -> float:
    """The median of repeated calls, the device's work included."""
    taken = []
    for _ in range(times + 3):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[3:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_machine(device: torch.device, scale: int = 1) -> Machine:
    """Bytes a second of a sum, which reads and writes nothing, and operations a second of a bfloat16 product."""
    source = torch.ones(LARGE // scale // 4, device=device)
    read = source.nbytes / seconds(source.sum, device)
    side = SQUARE // scale
    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    multiplied = 2 * side**3 / seconds(lambda: left @ right, device, 5)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 1 << 33
    return Machine(memory, read, multiplied)


def measure_generate(folder: Path, device: torch.device, streams: int, rounds: int) -> float:
    """Output tokens a second of Transformers' static batch."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(device)
    how = {"do_sample": False, "pad_token_id": 0}
    rates = []
    for number in range(rounds + 1):  # the first warms up
        prompts = torch.randint(300, VOCAB, (streams, PROMPT), device=device)
        _wait(device)
        began = time.perf_counter()
        with torch.inference_mode():
            said = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=OUTPUT, min_new_tokens=OUTPUT, **how
            )
        _wait(device)
        assert said.shape[1] == PROMPT + OUTPUT
        rates.append(streams * OUTPUT / (time.perf_counter() - began))
        if not number:
            rates.clear()
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return statistics.median(rates)


def measure_service(folder: Path, device: str, streams: list[int], rounds: int) -> dict[int, list[Summary]]:
    """Runs of one server at every number of streams."""
    most = max(64, *streams)
    flags = ["--model", f"m={folder}", "--device", device, "--dtype", "bfloat16", "--max-rows", str(most)]
    flags += ["--no-measure-machine"]
    flags += ["--cache-tokens", str(2 * most * (PROMPT + OUTPUT))]
    with ServerProcess(flags, ready_seconds=900) as server:
        return {
            n: [
                closed.measure(server.http, "m", Case(n, PROMPT, OUTPUT), (number, n), VOCAB)
                for number in range(rounds)
            ]
            for n in streams
        }


def measure_forward(folder: Path, device: torch.device, streams: list[int], plain: bool) -> dict[int, float]:
    """The GPU's seconds for a step of each number of rows. plain: with none of our kernels."""
    with mock.patch.object(gpu, "usable", lambda x: False) if plain else nullcontext():
        model = passes.apply(load_any(folder, torch.bfloat16).model.requires_grad_(False).to(device))
        runner = GpuRunner(model, Room(max(streams) * 2 * LENGTH, max(streams), PROMPT, PAGE_SIZE))
        if device.type == "cuda":
            list(runner.capture(wanted=tuple(streams)))
        return {rows: _forward_seconds(runner, rows) for rows in streams}


def _forward_seconds(runner: GpuRunner, rows: int) -> float:
    pages = -(-LENGTH // PAGE_SIZE)
    made = []
    for i in range(rows):
        prompt = tuple(torch.randint(FIRST_ID, runner.vocab, (LENGTH - 1,)).tolist())
        asked = Request(str(i), prompt, Sampling(9, temperature=0.0), 0.0, outputs=[FIRST_ID + i])
        made.append(StepRow(asked, LENGTH - 1, 1, (np.arange(1 + i * pages, 1 + (i + 1) * pages),)))
    taken = [runner.run(Step(number, tuple(made))).forward_seconds for number in range(60)]
    return statistics.median(taken[10:])


def measure(name: str, folder: Path, options: argparse.Namespace, machine: Machine) -> tuple[list[Row], list[Forward]]:
    architecture, device = read_architecture(folder), torch.device(options.device)
    least = {n: roofline(architecture, machine, n, LENGTH).seconds for n in options.streams}
    ours, library = (measure_forward(folder, device, options.streams, plain) for plain in (False, True))
    steps = [Forward(name, n, least[n], ours[n], library[n]) for n in options.streams]
    print(*steps, sep="\n", flush=True)
    runs = measure_service(folder, options.device, options.streams, options.rounds)
    served = []
    for n in options.streams:
        rate = statistics.median(run.output_rate for run in runs[n])
        served.append(Row(name, n, measure_generate(folder, device, n, options.rounds), rate))
        print(served[-1], flush=True)
    return served, steps


def main() -> int:
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA GPU here: nothing is measured (--rehearse tries the commands on the processor)")
        return 0
    device = torch.device(options.device)
    machine = measure_machine(device, 32 if options.rehearse else 1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: a rehearsal"
    print(f"{name}, torch {torch.__version__}: {machine.bandwidth / 1e12:.2f} TB/s, {machine.flops / 1e12:.0f} TFLOP/s")
    served: list[Row] = []
    steps: list[Forward] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            folder = Path(scratch) / name
            (TINY if options.rehearse else SHAPES)[name].write(folder, device)
            for lines, more in zip((served, steps), measure(name, folder, options, machine), strict=True):
                lines += more  # type: ignore[arg-type]
    print("\n`python -m tests.bench.cuda`")
    for head, lines in ((HEAD, served), (STEPS, steps)):
        print(f"\n{head}\n|---|" + "--:|" * (head.count("|") - 2), *lines, sep="\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.cuda", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the processor")
    options = parser.parse_args()
    if options.rehearse:
        options.device = "cpu"
    return options


if __name__ == "__main__":
    raise SystemExit(main())
