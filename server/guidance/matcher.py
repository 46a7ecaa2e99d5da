"""A grammar as the engine's Constraint."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Executor, Future

import numpy as np
from llguidance import LLMatcher

from server.engine.constraint import ConstraintFailed, bits_of

LONGEST_WAIT = 5.0  # seconds for one set of tokens; the library's own bounds end it after hundredths


class GrammarConstraint:
    """Follows the outputs of one request through a grammar.

    An end token may come wherever the text may end. `endless`: only where nothing else may come. `aside`: where the
    next set of tokens is worked out while the model computes; None: at once, when it is asked for.
    """

    def __init__(self, matcher: LLMatcher, ends: Collection[int], *, endless: bool, aside: Executor | None) -> None:
        self._matcher = matcher
        self._ends = bits_of(ends) if endless else None
        self._aside = aside
        self._coming: Future[bytes] | None = None
        self._now: np.ndarray | None = None
        self.failure: str | None = None
        self._look_ahead()

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        if self._now is None:
            self._now = self._endless(np.frombuffer(self._next(), np.uint8))
        return self._after(list(ahead)) if ahead else self._now

    def push(self, token: int) -> bool:
        self._next_is_here()
        if not self._matcher.consume_token(token):
            raise self._failed()
        self._now = None
        if self._matcher.is_stopped():
            return True
        self._look_ahead()
        return False

    def _after(self, ahead: list[int]) -> np.ndarray:
        """What may follow a guess; after one that the grammar refuses, which will not come true, anything."""
        taken = self._matcher.try_consume_tokens(ahead)
        try:
            if taken < len(ahead):
                return np.full_like(self._now, 255)
            return self._endless(np.frombuffer(self._matcher.compute_bitmask(), np.uint8))
        finally:
            self._matcher.rollback(taken)

    def _endless(self, bits: np.ndarray) -> np.ndarray:
        """Without the end tokens, where something else is left."""
        if self._matcher.is_error() or not bits.any():
            raise self._failed()
        if self._ends is None:
            return bits
        others = bits.copy()
        others[: len(self._ends)] &= ~self._ends
        return others if others.any() else bits

    def _look_ahead(self) -> None:
        self._coming = None if self._aside is None else self._aside.submit(self._matcher.compute_bitmask)

    def _next(self) -> bytes:
        if self._coming is None:
            return self._matcher.compute_bitmask()
        try:
            return self._coming.result(LONGEST_WAIT)
        except TimeoutError:
            raise self._failed("it takes too long to follow") from None

    def _next_is_here(self) -> None:
        """Nobody else works on the matcher any more."""
        if self._coming is not None and not self._coming.cancel():
            self._next()

    def _failed(self, why: str = "") -> ConstraintFailed:
        self.failure = why or self._matcher.get_error() or "nothing of this vocabulary can follow"
        return ConstraintFailed(self.failure)
