"""From a name on the command line to a served model: find the weights, build the model, its cache and its engine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import torch
from rich.console import Console
from rich.progress import Progress

from model import machine, presets, source, zoo
from model.checkpoint.error import CheckpointError
from model.checkpoint.loading import load_any
from model.codec import load_architecture
from model.config import Architecture, ConfigError
from model.footprint import BYTES, cache_bytes_per_token
from model.initialise import random_model
from model.kernels import native, panels, passes
from model.kernels.panels import Form
from model.limits import Limits, Unmeasured
from model.parameters import parameters, without_memory
from model.presets import Preset
from model.roofline import Machine
from model.source import Checkpoint, File
from model.tokenizer import ByteTokenizer, Tokenizer
from model.transformer import Transformer
from server.config import Settings
from server.engine import gpu
from server.engine.device import find_device, free_bytes, largest_room, pool_bytes, state_pool_bytes
from server.engine.engine import Engine
from server.engine.gpu import GpuRunner
from server.engine.runner import ModelRunner, Room
from server.engine.stats import Observer
from server.models import ServedModel, split_device, split_spec

log = structlog.get_logger()

DEFAULT_CACHE_BYTES = 1 << 30
DEFAULT_CACHE_TOKENS = 1 << 16


class UnknownModel(ValueError):
    """A name that stands for nothing; the message says what was looked for."""


class TooLarge(ValueError):
    """A model of this size does not fit into the memory there is, or its cache not beside it."""


class NoInt8(ValueError):
    """Weights in 8 bits were asked for where no kernel reads them."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stood for; `preset` where it is one as published, `scale` where it was made small."""

    model: Transformer
    tokenizer: Tokenizer
    preset: Preset | None = None
    scale: str | None = None


def build_model(spec: str, settings: Settings, observer: Observer, *, measures: bool = True) -> ServedModel:
    """Build what SPEC names: a zoo model, a checkpoint folder (ours or Hugging Face's), org/name on the hub, an
    architecture file or a preset; each also as ID=… and with @DEVICE behind. The settings say how, whatever models they
    name. measures: whether the machine may be measured now; else what is known of it has to do.

    Raises BadModelId, UnknownModel, TooLarge, NoInt8, NoDevice, ConfigError or CheckpointError, with a message for the
    operator.
    """
    native.begin()
    name, said = split_spec(spec)
    device = find_device(split_device(spec)[1] or settings.device)
    found = _find(said, settings)
    model, tokenizer, architecture = found.model, found.tokenizer, found.model.architecture
    _tell(name, architecture)
    if not architecture.attentions and not architecture.recurrents:
        raise ConfigError(f"model {name!r}: none of its blocks has an attention, so no token would see another")
    form = _form(name, settings, device)
    if device.type != "cpu":
        _send(model, name, device)
    passes.apply(model, form=form)
    if left := passes.left(model):
        log.info("blocks outside the compiled kernels", model=name, blocks=left, of=len(architecture.blocks))
    if settings.speculate and architecture.recurrents:
        log.info("no speculation", model=name, why="a state that wrong guesses went into cannot be had back")
    measured = settings.measure_machine and device.type == "cpu"
    roofs = _roofs(name, architecture, settings, measures) if measured else None
    engine = Engine(
        name,
        _runner(model, name, tokenizer.vocab_size, roofs, settings),
        observer=observer,
        max_batch_tokens=settings.max_batch_tokens,
        max_rows=settings.max_rows,
        chunk_seconds=None if settings.chunk_ms is None else settings.chunk_ms / 1e3,
        speculate=settings.speculate,
    )
    counts, used = parameters(architecture), parameters(without_memory(architecture))
    start = (min(tokenizer.eos_ids, default=0),) if architecture.encoder else ()
    return ServedModel(
        name,
        architecture,
        tokenizer,
        engine,
        settings.dtype,
        (counts.total, used.active),
        start,
        roofs,
        form,
        found.preset,
        found.scale,
    )


def _form(name: str, settings: Settings, device: torch.device) -> Form:
    """How the linear layers of a model on this device are kept."""
    if device.type == "cpu":
        found = panels.available(settings.weights, getattr(torch, settings.dtype))
    else:
        found = "whole" if settings.weights in ("lossless", "whole") else None
    if found is None:
        needed = "a compiler and the vector units of a CPU (AVX2 or AVX-512)"
        raise NoInt8(f"model {name!r}: weights={settings.weights} needs {needed}")
    return found


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[float, float], None]]:
    """A bar on a terminal; call it with (done, total)."""
    with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _find(name: str, settings: Settings) -> Found:
    try:
        found = source.find(name)
    except presets.UnknownPreset as error:
        known = ", ".join(zoo.names())
        raise UnknownModel(f"model {name!r}: no folder, no zoo model ({known}), and {error}") from None
    match found:
        case File(path):
            return _random(name, load_architecture(path), settings)
        case Checkpoint(place):
            return _load(place, settings)
        case Preset():
            return _random(name, found.architecture, settings, found)


def _load(place: str | Path, settings: Settings) -> Found:
    """A checkpoint; one without a tokenizer is served on bytes."""
    name = Path(place).name
    with _progress(f"loading {name}") as progress:
        loaded = load_any(place, getattr(torch, settings.dtype), progress)
    return Found(loaded.model, loaded.tokenizer or _bytes(loaded.architecture, f"{name} has no tokenizer"))


def _random(name: str, architecture: Architecture, settings: Settings, preset: Preset | None = None) -> Found:
    """Random weights from the seed, and bytes for tokens; at the settings' scale, if there is one."""
    if settings.scale is not None:
        published, architecture, preset = architecture, presets.scaled(architecture, settings.scale), None
        counts = {"parameters": parameters(architecture).total, "of": parameters(published).total}
        log.info("made small", model=name, scale=settings.scale, **counts)
    tokenizer = _bytes(architecture, f"model {name!r}")
    needed = parameters(architecture).total * BYTES[settings.dtype]
    room = machine.room()
    if needed > room:
        sizes = f"{needed / 1e9:.1f} GB of weights, there is memory for {room / 1e9:.1f} GB"
        hint = f"; add --scale {' or --scale '.join(presets.SCALES)}" if settings.scale is None else ""
        raise TooLarge(f"model {name!r}: {sizes}{hint}")
    model = random_model(architecture, settings.seed, getattr(torch, settings.dtype)).eval().requires_grad_(False)
    return Found(model, tokenizer, preset, settings.scale)


def _bytes(architecture: Architecture, what: str) -> ByteTokenizer:
    if architecture.vocab < ByteTokenizer.LEAST:
        least = f"bytes as tokens and their end need {ByteTokenizer.LEAST}"
        raise CheckpointError(f"{what}: vocab={architecture.vocab} is too small, {least}")
    return ByteTokenizer(architecture.vocab)


def _runner(model: Transformer, name: str, vocab: int, roofs: Machine | None, settings: Settings) -> ModelRunner:
    if model.embedding.weight.device.type == "cpu":
        room = Room(_cache_tokens(model.architecture, settings), settings.max_rows, settings.max_batch_tokens)
        _check_states(name, model.architecture, room)
        return ModelRunner(model, room, vocab, weight_bytes=passes.weight_bytes(model), machine=roofs)
    runner = GpuRunner(model, _gpu_room(model, name, settings), vocab)
    with _progress(f"capturing {name}") as progress:
        for share in runner.capture():
            progress(share, 1.0)
    log.info("on a GPU", model=name, device=str(runner.device), captured=runner.captured, tokens=runner.room.tokens)
    return runner


def _check_states(name: str, architecture: Architecture, room: Room) -> None:
    """States take what requests and steps need, whatever the tokens of the cache: raises TooLarge beyond the memory."""
    needed, left = state_pool_bytes(architecture, room), machine.room()
    if needed > left:
        sizes = f"{needed / 1e9:.1f} GB for the states of requests, there is memory for {left / 1e9:.1f} GB"
        raise TooLarge(f"model {name!r}: {sizes}; lower --max-rows or --max-batch-tokens")


def _gpu_room(model: Transformer, name: str, settings: Settings) -> Room:
    """Room on a GPU for as many tokens as were asked for, or for what fits beside the weights and is of use."""
    architecture, weight = model.architecture, model.embedding.weight
    wanted = settings.cache_tokens or settings.max_rows * architecture.context
    room = Room(wanted, settings.max_rows, settings.max_batch_tokens, gpu.PAGE_SIZE)
    free = free_bytes(weight.device)
    share = settings.cache_share if settings.cache_tokens is None else 1.0
    found = largest_room(architecture, room, weight.itemsize, int(free * share))
    least = wanted if settings.cache_tokens is not None else gpu.PAGE_SIZE
    if found.tokens < least // gpu.PAGE_SIZE * gpu.PAGE_SIZE:
        needed = pool_bytes(architecture, replace(room, tokens=least), weight.itemsize)
        sizes = f"{needed / 1e9:.1f} GB of cache for {least} tokens, {weight.device} has {free / 1e9:.1f} GB free"
        raise TooLarge(f"model {name}: {sizes}; lower --cache-tokens, --max-rows or --max-batch-tokens")
    return found


def _send(model: Transformer, name: str, device: torch.device) -> None:
    """Move the weights to a GPU."""
    needed, free = sum(p.nbytes for p in model.parameters()), free_bytes(device)
    if needed > free:
        sizes = f"{needed / 1e9:.1f} GB of weights, {device} has {free / 1e9:.1f} GB free"
        raise TooLarge(f"model {name}: {sizes}")
    model.to(device)


def _roofs(name: str, architecture: Architecture, settings: Settings, measures: bool) -> Machine | None:
    """What this machine can do for a model of this size; not knowing it costs the metrics and nothing else."""
    size = parameters(architecture).total * panels.weight_bytes(settings.weights, getattr(torch, settings.dtype))
    try:
        roofs = Limits(brief=True, measures=measures).machine(size, settings.dtype, settings.weights)
    except Unmeasured:
        log.info("the machine is not measured while it is busy", model=name)
        return None
    except (RuntimeError, OSError, MemoryError) as error:
        log.warning("the machine was not measured", model=name, error=str(error))
        return None
    rates = {"reads_gb_per_second": round(roofs.bandwidth / 1e9, 1), "multiplies_tflops": round(roofs.flops / 1e12, 3)}
    log.info("this machine", model=name, dtype=settings.dtype, **rates)
    return roofs


def _tell(name: str, architecture: Architecture) -> None:
    if architecture.encoder is None and any(block.needs_memory for block in architecture.blocks):
        log.info("cross-attention layers are left out: no memory is given", model=name)


def _cache_tokens(architecture: Architecture, settings: Settings) -> int:
    """On a CPU, without the setting: what max_rows full contexts need, up to 65,536 tokens or 1 GiB; of their states,
    which do not grow, nothing."""
    if settings.cache_tokens is not None:
        return settings.cache_tokens
    token_bytes = max(1, cache_bytes_per_token(architecture, settings.dtype))
    most = min(settings.max_rows * architecture.context, DEFAULT_CACHE_TOKENS, DEFAULT_CACHE_BYTES // token_bytes)
    return max(most, architecture.context)
