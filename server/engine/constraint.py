"""What a request may say next: a set of token ids at every place of its answer. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np


class ConstraintFailed(Exception):
    """A constraint cannot tell what may come next. The message speaks of the constraint, not of the server."""


class Constraint(Protocol):
    """Bounds the outputs of one request. Only the engine thread calls it once the request is submitted."""

    @property
    def failure(self) -> str | None:
        """Why it can say no more; None while all is well."""
        ...

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        """What may follow the outputs so far and `ahead`, which is only guessed: one bit a token id, the least
        significant of each byte first. Asked twice it says the same twice. Raises ConstraintFailed."""
        ...

    def push(self, token: int) -> bool:
        """Take the next output; True when nothing may follow it."""
        ...


class AllowedIds:
    """The same few token ids at every place."""

    failure = None

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
