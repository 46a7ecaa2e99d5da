"""What a request may say next: a set of token ids at every place of its answer. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np


class ConstraintFailed(Exception):
    """A constraint cannot tell what may come next. The message speaks of the constraint, not of the server."""


class Constraint(Protocol):
    """Bounds the outputs of one request. Only the engine thread calls it once the request is submitted, and nothing it
    calls takes long: what does is found out elsewhere, and the request has no token in a step until that has come."""

    @property
    def failure(self) -> str | None:
        """Why it can say no more; None while all is well."""
        ...

    @property
    def awaits(self) -> bool:
        """Whether what may come next, or behind what is considered, is still to be found out. Looking begins nothing:
        `look_ahead` does."""
        ...

    def look_ahead(self) -> Future[Any] | None:
        """Find out what may come next, unless that is known or under way. Done when it is known, as is what may come
        behind what is considered, or `failure` says why it will not be. None: that is so now, and `allowed` may be
        asked."""
        ...

    def consider(self, ahead: Sequence[int]) -> None:
        """Find out what may follow each part of a guess, as far as it can come true. Not while it awaits anything."""
        ...

    def fitting(self, ahead: Sequence[int]) -> Sequence[int]:
        """The beginning of what was considered last about which that is known: not while it awaits that."""
        ...

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        """What may follow the outputs so far and `ahead`, a beginning of what is fitting: one bit a token id, the
        least significant of each byte first. Asked twice it says the same twice. Raises ConstraintFailed."""
        ...

    def push(self, token: int) -> bool:
        """Take the next output; True when nothing may follow it. Raises ConstraintFailed."""
        ...

    def close(self) -> None:
        """Nobody asks any more."""
        ...


class Known:
    """What constraints have in common that know everything at once."""

    failure: str | None = None
    awaits = False

    def look_ahead(self) -> Future[Any] | None:
        return None

    def consider(self, ahead: Sequence[int]) -> None:
        pass

    def fitting(self, ahead: Sequence[int]) -> Sequence[int]:
        return ahead

    def close(self) -> None:
        pass


class AllowedIds(Known):
    """The same few token ids at every place."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._bits = bits_of(ids)

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        return self._bits

    def push(self, token: int) -> bool:
        return False


def bits_of(ids: Iterable[int]) -> np.ndarray:
    """The set as bits, as long as its largest id needs."""
    members = np.fromiter(ids, np.int64)
    flags = np.zeros(int(members.max(initial=-1)) + 1, np.uint8)
    flags[members] = 1
    return np.packbits(flags, bitorder="little")


def members(bits: np.ndarray, vocab: int) -> np.ndarray:
    """The set as flags (vocab,): ids that the bits do not reach are not in it."""
    flags = np.zeros(vocab, np.bool_)
    reached = np.unpackbits(bits, bitorder="little")[:vocab]  # with `count`, numpy leaves what is beyond as it is
    flags[: len(reached)] = reached
    return flags
