"""What a training run is asked to do: a TOML file with the tables [architecture] and [training], and maybe [card].

The architecture is written out, or a preset (see Named).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model import presets
from model.codec import architecture_from_dict, decode, read_table
from model.config import Architecture, ConfigError, Learned
from model.presets import scale as scales
from model.values.base import check, positive, within

LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. A step is `batch` windows of `length` tokens; the rate warms up, falls as a cosine."""

    steps: int
    batch: int = 16
    length: int = 512
    rate: float = 2e-3
    final_rate: float = 1e-4
    warmup: int = 100
    decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    evaluate_every: int = 250
    save_every: int = 250

    def __post_init__(self) -> None:
        positive(steps=self.steps, batch=self.batch, length=self.length, rate=self.rate, clip=self.clip)
        positive(evaluate_every=self.evaluate_every, save_every=self.save_every)
        within(low=0, final_rate=self.final_rate, warmup=self.warmup, decay=self.decay)
        within(0, LARGEST_SEED, seed=self.seed)

    def rate_at(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_rate + (self.rate - self.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Named:
    """A preset, small where a scale is said. Its vocabulary is the tokenizer's, its context that of the training where
    none is said; at a scale windows shrink with it."""

    preset: str
    scale: str | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        positive(context=self.context)

    def architecture(self, length: int, vocab: int) -> Architecture:
        """The preset as it is trained, in windows of `length` tokens."""
        context, found = self.context or length, presets.load(self.preset)
        if self.scale is not None:
            found = presets.scaled(found, replace(scales.named(self.scale), context=context))
        position, embedding = found.embedding.position, found.embedding
        if isinstance(position, Learned):
            embedding = replace(embedding, position=replace(position, rows=context + position.offset))
        return replace(found, vocab=vocab, context=context, embedding=embedding)


@dataclass(frozen=True)
class Card:
    """What the checkpoint's card says of its origin: `data`, else the name of the corpus's folder, and `license`, else
    none."""

    data: str | None = None
    license: str | None = None


def read(path: Path, vocab: int) -> tuple[Architecture, Recipe, Card]:
    """What a file says; `vocab` is the tokenizer's. ConfigError names the file and the fault."""
    data = read_table(path)
    try:
        for name in ("architecture", "training"):
            check(isinstance(data.get(name), dict), f"the table [{name}] is missing")
        unknown = sorted(set(data) - {"architecture", "training", "card"})
        check(not unknown, f"{''.join(unknown[:1])}: unknown table; known are architecture, training and card")
        recipe, card = decode(Recipe, data["training"], "training"), decode(Card, data.get("card", {}), "card")
        architecture = _architecture(data["architecture"], recipe.length, vocab)
        check_fit(architecture, recipe)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    return architecture, recipe, card


def _architecture(data: dict[str, Any], length: int, vocab: int) -> Architecture:
    if "preset" not in data:
        return architecture_from_dict(data)
    return decode(Named, data, "architecture").architecture(length, vocab)


def check_fit(architecture: Architecture, recipe: Recipe) -> None:
    """Raise ConfigError unless the model can be trained by this recipe."""
    check(architecture.encoder is None, "encoder: only models without one are trained here")
    check(
        recipe.length <= architecture.context,
        f"length={recipe.length} exceeds the model's context={architecture.context}",
    )
