"""From a name on the command line to a served model: find the weights, build the model, its cache and its engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from model import zoo
from model.cache import cache_entries
from model.checkpoint import native
from model.codec import load_architecture
from model.config import Architecture
from model.initialise import random_model
from model.kernels import packed
from model.tokenizer import ByteTokenizer, Tokenizer
from model.transformer import Transformer
from server.engine.engine import Engine
from server.engine.runner import Room, ModelRunner
from server.engine.stats import Observer
from server.models import ServedModel

DEFAULT_CACHE_BYTES = 1 << 30
DEFAULT_CACHE_TOKENS = 1 << 16


class UnknownModel(ValueError):
    """A name that stands for nothing; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How models are built. `cache_tokens` None: what max_rows full contexts need, up to 65,536 tokens or 1 GiB."""

    dtype: str = "float32"
    cache_tokens: int | None = None
    max_batch_tokens: int = 512
    max_rows: int = 64
    seed: int = 0
    scale: str | None = None


def split_spec(spec: str) -> tuple[str, str]:
    """ "ID=NAME" or "NAME" → (the name it is served under, what to load)."""
    name, found, source = spec.partition("=")
    if found:
        return name, source
    path = Path(spec)
    return (path.stem if path.exists() else spec), spec


def build_model(spec: str, options: BuildOptions, observer: Observer) -> ServedModel:
    """Build what SPEC names: a zoo model, a checkpoint folder or an architecture file, each also as ID=….

    Raises UnknownModel, ConfigError or CheckpointError with a message for the operator.
    """
    name, source = split_spec(spec)
    model, tokenizer = _find(source, options)
    architecture = model.architecture
    parameters = count_parameters(model)
    packed.pack(model)
    room = Room(_cache_tokens(architecture, options), options.max_rows, options.max_batch_tokens)
    engine = Engine(
        name,
        ModelRunner(model, room, tokenizer.vocab_size),
        observer=observer,
        max_batch_tokens=options.max_batch_tokens,
        max_rows=options.max_rows,
    )
    return ServedModel(name, architecture, tokenizer, engine, options.dtype, parameters)


def count_parameters(model: Transformer) -> tuple[int, int]:
    """(all parameters, those one token uses)."""
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = 0
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            block = model.architecture.blocks[int(name.split(".")[1])]
            moe = next(branch for branch in block.branches if hasattr(branch, "active"))
            idle += parameter.numel() // moe.experts * (moe.experts - moe.active)
    return total, total - idle


def _find(source: str, options: BuildOptions) -> tuple[Transformer, Tokenizer]:
    dtype = getattr(torch, options.dtype)
    folder = zoo.folder(source) or Path(source)
    if (folder / "architecture.json").exists():
        return native.load(folder, dtype), Tokenizer.load(folder)
    if folder.suffix in (".toml", ".json") and folder.is_file():
        architecture = load_architecture(folder)
        model = random_model(architecture, options.seed, dtype).eval().requires_grad_(False)
        return model, ByteTokenizer(architecture.vocab)
    raise UnknownModel(
        f"model {source!r}: no zoo model ({', '.join(zoo.names())}), checkpoint folder or architecture file"
    )


def _cache_tokens(architecture: Architecture, options: BuildOptions) -> int:
    if options.cache_tokens is not None:
        return options.cache_tokens
    entry = sum(entry.numbers for entry in cache_entries(architecture)) * getattr(torch, options.dtype).itemsize
    most = min(options.max_rows * architecture.context, DEFAULT_CACHE_TOKENS, DEFAULT_CACHE_BYTES // max(entry, 1))
    return max(most, architecture.context)
