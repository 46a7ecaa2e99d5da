"""What administration needs of the process that the models live in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from server.errors import InvalidValue, MissingValue
from server.models import BadModelId, ServedModel, split_spec

SPEC_CHARS = 4096
MOST_CACHE_TOKENS = 10**12  # more than any memory holds
MOST_SEED = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class LoadWish:
    """What to load, `model` as the setting of that name; None is as in the settings."""

    model: str
    scale: str | None = None
    seed: int | None = None
    cache_tokens: int | None = None

    def check(self) -> None:
        """Raises InvalidRequest."""
        if not self.model:
            raise MissingValue("model is needed: NAME, PATH or ID=NAME", param="model")
        if len(self.model) > SPEC_CHARS or not self.model.isprintable():
            raise InvalidValue(f"model must be at most {SPEC_CHARS} printable characters", param="model")
        try:
            split_spec(self.model)
        except BadModelId as bad:
            raise InvalidValue(str(bad), param="model") from None
        if self.cache_tokens is not None and not 1 <= self.cache_tokens <= MOST_CACHE_TOKENS:
            raise InvalidValue.between("cache_tokens", self.cache_tokens, 1, MOST_CACHE_TOKENS)
        if self.seed is not None and not 0 <= self.seed <= MOST_SEED:
            raise InvalidValue.between("seed", self.seed, 0, MOST_SEED)


class Host(Protocol):
    """The process that the models live in."""

    drain_seconds: float

    async def build(self, wish: LoadWish) -> ServedModel:
        """A model, built beside the event loop and the engine thread."""
        ...

    async def bring_up(self, model: ServedModel) -> None:
        """Step its engine, warm it up, count it; all of that or nothing."""
        ...

    async def take_down(self, model: str) -> None:
        """End what its engine still has, and know it no more."""
        ...

    async def free(self) -> None:
        """Give the memory back of what nobody holds any more."""
        ...

    async def reset(self, model: ServedModel) -> None:
        """Forget the cached prefixes of a model."""
        ...

    def load_of(self, model: str) -> tuple[int, int]:
        """How many of its requests run, and how many wait."""
        ...

    def leave(self) -> None:
        """Drain and end the process."""
        ...
