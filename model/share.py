"""python -m model roofline: what this machine can do, what it could make of a model, and what it makes of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from model import machine, presets, steady, zoo
from model.checkpoint import loading
from model.config import Architecture, ConfigError
from model.footprint import BYTES
from model.initialise import random_model
from model.inspect import find
from model.kernels import panels, passes
from model.kernels.panels import Form
from model.limits import LARGEST, Limits, readers, size_class
from model.parameters import parameters
from model.roofline import Machine, Roofline, prefill_roofline, roofline
from model.timing import Timing
from model.transformer import Transformer

TYPES = ("bfloat16", "float32")
STREAMS = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps to predict or measure: decodes of so many streams of `context` tokens, and the prefill of a prompt."""

    streams: tuple[int, ...] = STREAMS
    context: int = 256
    prompt: int = 1024
    dtype: str = "bfloat16"
    weights: Form = "lossless"

    @property
    def weight_size(self) -> float:
        """Bytes of one weight."""
        return panels.weight_bytes(self.weights, getattr(torch, self.dtype))


@dataclass(frozen=True, slots=True)
class Reached:
    """One kind of step: the least it can take, and what it took (None: it was not measured)."""

    name: str
    best: Roofline
    timing: Timing | None = None
    reading: float | None = None  # of the bytes a second that memory gave at the same moment; where it is the bound

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second as measured; the most possible where nothing was."""
        return self.best.batch / (self.best.seconds if self.timing is None else self.timing.typical)

    @property
    def share(self) -> float | None:
        """The share of the roofline that was reached: 1 would be nothing but the slower of memory and arithmetic."""
        return None if self.timing is None else self.best.seconds / self.timing.typical

    @property
    def read(self) -> float | None:
        """Bytes of weights read a second; None where nothing was measured."""
        return None if self.timing is None else self.best.weight_bytes / self.timing.typical

    def document(self) -> dict[str, Any]:
        told = {"step": self.name, "bound": self.best.bound, **asdict(self.best)}
        told["best_tokens_per_second"] = self.best.tokens_per_second
        if self.timing is not None:
            told |= {"seconds": self.timing.typical, "spread": self.timing.spread, "share": self.share}
            told |= {"tokens_per_second": self.tokens_per_second, "weight_bytes_per_second": self.read}
            told |= {"share_of_reading": self.reading}
        return told


def predict(architecture: Architecture, best: Machine, plan: Plan) -> list[Reached]:
    """The steps of a plan at best; lengths are cut to the architecture's context."""
    context, prompt = (min(length, architecture.context) for length in (plan.context, plan.prompt))
    kind, size = plan.dtype, plan.weight_size
    decodes = [
        Reached(f"decode {rows}", roofline(architecture, best, rows, context, kind, size)) for rows in plan.streams
    ]
    return [*decodes, Reached(f"prefill {prompt:,}", prefill_roofline(architecture, best, prompt, kind, size))]


def measure(model: Transformer, steps: list[Reached], plan: Plan, seconds: float) -> list[Reached]:
    """Predicted steps, each measured for about `seconds`; those bound by memory once more beside plain reading."""
    context, (*decodes, prefill) = min(plan.context, model.architecture.context), steps
    size = size_class(decodes[0].best.weight_bytes)
    read, *_ = readers(size)

    def decode(step: Reached) -> Reached:
        best, reading = step.best, None
        timing = steady.time_decode(model, best.batch, context, seconds)
        if best.bound == "memory":
            longer = steady.decode_beside(model, best.batch, context, read, 2 * seconds)
            reading = (best.weight_bytes + best.cache_bytes) / size / longer
        return Reached(step.name, best, timing, reading)

    last = Reached(prefill.name, prefill.best, steady.time_prefill(model, prefill.best.batch, seconds))
    return [*map(decode, decodes), last]


def build(name: str, architecture: Architecture, dtype: str, weights: Form = "lossless") -> Transformer:
    """The model a server would run: its checkpoint where there is one, else random weights; made fast the same way."""
    if architecture.encoder is not None:
        raise ConfigError(f"{name}: steps of encoder-decoders are only predicted, with --predict")
    needed = parameters(architecture).total * BYTES[dtype]
    if needed > machine.memory() // 2:  # while they are laid out anew, weights exist twice
        raise ConfigError(f"{name}: {needed / 1e9:.1f} GB of weights are too many to build here; --predict or --scale")
    path = zoo.folder(name) or Path(name)
    kind: torch.dtype = getattr(torch, dtype)
    whole = path.is_dir() and loading.read_architecture(path) == architecture
    model = loading.load_any(path, kind).model if whole else random_model(architecture, 0, kind)
    return passes.apply(model.eval().requires_grad_(False), form=weights)


def command(
    names: Annotated[list[str] | None, typer.Argument(help="Presets, zoo models, files or checkpoint folders.")] = None,
    scale: Annotated[str | None, typer.Option(help=f"A small model alike: {', '.join(presets.SCALES)}.")] = None,
    dtype: Annotated[str, typer.Option(help=f"Of weights and cache: {', '.join(TYPES)}.")] = "bfloat16",
    weights: Annotated[Form, typer.Option(help="Of linear layers, as a server with the same option.")] = "lossless",
    context: Annotated[int, typer.Option(min=1, help="Tokens of every stream, its newest included.")] = 256,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Decode so many at a time; may be repeated.")] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prefill.")] = 1024,
    seconds: Annotated[float, typer.Option(help="Time for the measurement of each step.")] = 1.0,
    only_predict: Annotated[bool, typer.Option("--predict", help="Build no model, tell what is possible.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="What was measured here before does not count.")] = False,
) -> None:
    """Measure how fast this machine reads and multiplies, and the share of it that models reach.

    Its limits are the best ever measured here with this PyTorch and as many threads.
    """
    if dtype not in TYPES:
        raise ConfigError(f"dtype: {dtype!r} is not one of {', '.join(TYPES)}")
    if panels.available(weights, getattr(torch, dtype)) is None:
        raise ConfigError(f"weights: this machine has no kernels for {weights}")
    plan = Plan(tuple(streams or STREAMS), context, prompt, dtype, weights)
    console = Console(highlight=False, quiet=as_json)
    limits, found = Limits(fresh=True, forget=forget), {}
    roofs = {"read": limits.bandwidth(LARGEST), **{kind: limits.rate(kind) for kind in TYPES}}
    _print_machine(roofs, console)
    for name in names or ():
        architecture = find(name)[0]
        if scale is not None:
            architecture = presets.scaled(architecture, scale)
        best = limits.machine(parameters(architecture).total * plan.weight_size, dtype, weights)
        steps = predict(architecture, best, plan)
        if not only_predict:
            steps = measure(build(name, architecture, dtype, weights), steps, plan, seconds)
        _print_steps(name, steps, best, console)
        found[name] = {"read": best.bandwidth, "steps": [step.document() for step in steps]}
    if as_json:
        told = {"machine": machine.words(), "threads": torch.get_num_threads(), "limits": roofs, "models": found}
        typer.echo(json.dumps(told))


def _print_machine(roofs: dict[str, float], console: Console) -> None:
    rates = ", ".join(f"{kind} {roofs[kind] / 1e12:.3f}" for kind in TYPES)
    console.print(f"{machine.words()}, {torch.get_num_threads()} threads", soft_wrap=True)
    console.print(f"reads {roofs['read'] / 1e9:.1f} GB/s beyond its caches; multiplies {rates} TFLOP/s", soft_wrap=True)


def _print_steps(name: str, steps: list[Reached], best: Machine, console: Console) -> None:
    weights, rate = steps[0].best.weight_bytes / 1e6, best.bandwidth / 1e9
    console.print(f"\n{name}: a token reads {weights:,.0f} MB of weights, at best {rate:.1f} GB/s", soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("step", "at best", "bound", "tok/s", "ms", "share", "GB/s", "reading", "spread"):
        table.add_column(title, justify="left" if title in ("step", "bound") else "right", no_wrap=True)
    for step in steps:
        cells = [step.name, f"{step.best.tokens_per_second:,.1f}", step.best.bound]
        if step.timing is not None and step.read is not None:
            milliseconds, spread = step.timing.typical * 1e3, step.timing.spread
            cells += [f"{step.tokens_per_second:,.1f}", f"{milliseconds:.2f}", f"{step.share:.0%}"]
            reading = "–" if step.reading is None else f"{step.reading:.0%}"
            cells += [f"{step.read / 1e9:.1f}", reading, f"{spread:.0%}"]
        table.add_row(*cells)
    console.print(table)
