"""A served model: what the service needs to hold of it, and its card in words and numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from model.card import card
from model.config import Architecture
from model.describe import kinds
from model.presets import Preset
from model.roofline import Machine
from model.tokenizer import Tokenizer
from server.engine.engine import Engine
from server.errors import shown

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
ID_WORDS = "an id has at most 64 of A-Z a-z 0-9 . _ / - and begins with a letter or digit; ID=NAME gives one"


class BadModelId(ValueError):
    """A name under which no model can be served."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a user is told about a model; `context` is the longest prompt plus output in tokens."""

    id: str
    context: int
    vocab: int
    total_parameters: int
    active_parameters: int
    cache_bytes_per_token: int
    state_bytes: int
    chat: bool
    attention: str
    position: str
    feed_forward: str
    dtype: str
    weights: str
    architecture: dict[str, Any] = field(hash=False)
    card: dict[str, Any] = field(hash=False)  # what `dyno inspect --json` tells of it, the architecture left out


@dataclass(frozen=True)
class ServedModel:
    """A model behind a name: `parameters` is (all, those one token uses)."""

    name: str
    architecture: Architecture
    tokenizer: Tokenizer
    engine: Engine
    dtype: str
    parameters: tuple[int, int]
    answer_start: tuple[int, ...] = ()  # with an encoder: ids that every answer begins with; the prompt is its source
    roofs: Machine | None = None  # what this machine can do with a model of this size and type, where it was measured
    weights: str = "whole"  # or lossless, int8, w8a8: model/kernels/panels.py
    preset: Preset | None = None  # where the architecture is one as published
    scale: str | None = None  # where it was made small

    @property
    def longest_source(self) -> int:
        """Most tokens a prompt may have that the encoder reads."""
        return min(self.architecture.context, self.engine.source_tokens)

    def placed(self, ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A prompt's ids as (source of the encoder, what the decoder continues)."""
        return (ids, self.answer_start) if self.answer_start else ((), ids)

    @property
    def longest(self) -> int:
        """Most tokens, prompt and output together, that one request may have: context and cache both hold them."""
        return min(self.architecture.context, self.engine.capacity_tokens)

    @property
    def vocab(self) -> int:
        """Token ids a caller may name run from 0 to this, exclusive: padding of the logits is no token."""
        return min(self.architecture.vocab, self.tokenizer.vocab_size)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The end tokens that the model can say: a configuration may name others, which are padding of the logits."""
        return frozenset(end for end in self.tokenizer.eos_ids if end < self.vocab)

    @cached_property
    def card(self) -> ModelCard:
        told = card(self.name, self.architecture, self.dtype, self.preset, self.scale)
        return ModelCard(
            id=self.name,
            context=self.architecture.context,
            vocab=self.architecture.vocab,
            total_parameters=self.parameters[0],
            active_parameters=self.parameters[1],
            cache_bytes_per_token=told["cache_bytes_per_token"],
            state_bytes=told["state_bytes"],
            chat=self.tokenizer.chat,
            **kinds(self.architecture),
            dtype=self.dtype,
            weights=self.weights,
            architecture=told.pop("architecture"),
            card=told,
        )


def split_device(spec: str) -> tuple[str, str | None]:
    """ "…@cuda:1" → ("…", "cuda:1"); None where no device is named."""
    found = re.search(r"@(auto|cpu|cuda(:\d+)?)$", spec)
    return (spec, None) if found is None else (spec[: found.start()], found[1])


def split_spec(spec: str) -> tuple[str, str]:
    """ "ID=NAME" or "NAME", either with "@DEVICE" behind → (the name it is served under, what to load).

    Raises BadModelId: names stand in paths, labels and pages.
    """
    spec, _ = split_device(spec)
    name, found, source = spec.partition("=")
    if not found:
        path = Path(spec)
        name, source = (path.name if path.is_dir() else path.stem if path.exists() else spec), spec
    if not MODEL_ID.fullmatch(name) or not source:
        raise BadModelId(f"model: {shown(name)} cannot be the id of {shown(source)}: {ID_WORDS}")
    return name, source
