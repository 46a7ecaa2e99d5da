"""A grammar as the engine's Constraint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np
from llguidance import LLMatcher

from server.engine.constraint import ConstraintFailed, bits_of
from server.guidance.following import TOO_SLOW, Allowance, Follower
from server.guidance.words import BROKEN, NOTHING_FOLLOWS, own_words


class GrammarConstraint:
    """Follows the outputs of one request through a grammar.

    What may come next is found out on the follower's thread, one set of tokens at a time, while the engine does other
    things: whoever `awaits` one has no token in a step. A guess is looked into on a copy, so a wrong one does no harm.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        first: bytes,
        ends: Collection[int],
        *,
        endless: bool,
        follower: Follower,
        allowance: Allowance,
    ) -> None:
        """matcher: at the beginning of the text, where `first` may come. An end token may come wherever the text may
        end; `endless`: only where nothing else may come."""
        self._matcher, self._follower, self._allowance = matcher, follower, allowance
        self._ends = bits_of(ends) if endless else None
        self._failure: str | None = None
        self._now: np.ndarray | None = self._endless(first)
        self._behind: list[np.ndarray] = []  # what may come behind the first, the first two, ... of a guess
        self._job: Future[None] | None = None

    @property
    def failure(self) -> str | None:
        if self._failure is None and self._allowance.exceeded:
            self._failure = TOO_SLOW
        return self._failure

    @property
    def awaits(self) -> bool:
        if self._job is not None:
            return not self._job.done()
        return self._now is None and self._failure is None

    def look_ahead(self) -> Future[None] | None:
        if self._job is None and self._now is None and self._failure is None:
            self._job = self._submit(self._find_next)
        if self._job is not None and self._job.done():
            self._job = None
            if self._now is None and self._failure is None:
                self._failure = BROKEN
        return self._job

    def consider(self, ahead: Sequence[int]) -> None:
        copy, self._behind = self._matcher.deep_copy(), []
        self._job = self._submit(partial(self._look_behind, copy, ahead, self._behind))

    def fitting(self, ahead: Sequence[int]) -> Sequence[int]:
        return ahead[: len(self._behind)]

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        found = self._behind[len(ahead) - 1] if ahead else self._now
        if found is None:
            raise ConstraintFailed(self._failure or "it is not known yet what may come next")
        return found

    def push(self, token: int) -> bool:
        self.close()  # what was to come of a guess is of no use any more
        self._now, self._job = None, None
        if not self._matcher.consume_token(token):
            self._failure = own_words(self._matcher.get_error())
            raise ConstraintFailed(self._failure)
        return self._matcher.is_stopped()

    def close(self) -> None:
        self._behind = []
        if self._job is not None:
            self._job.cancel()

    # ----------------------------------------------------------------------------------------- the follower's thread

    def _submit(self, work: Callable[[], None]) -> Future[None]:
        return self._follower.submit(self._allowance, work)

    def _find_next(self) -> None:
        try:
            self._now = self._set_of(self._matcher)
        except ConstraintFailed as failed:
            self._failure = str(failed)

    def _look_behind(self, matcher: LLMatcher, guess: Sequence[int], behind: list[np.ndarray]) -> None:
        """As far as the grammar goes along with the guess, quickly, and while somebody waits for it: no answer ends
        because of what was guessed."""
        with contextlib.suppress(ConstraintFailed):  # that guess came to nothing; the answer may still
            for token in guess:
                if behind is not self._behind or not matcher.try_consume_tokens([token]) or matcher.is_stopped():
                    return
                behind.append(self._set_of(matcher, counted=False))
                if self._allowance.was_slow:
                    return

    def _set_of(self, matcher: LLMatcher, *, counted: bool = True) -> np.ndarray:
        """What may come next."""
        bits = self._allowance.measured(matcher.compute_bitmask, counted=counted)
        if matcher.is_error():
            raise ConstraintFailed(own_words(matcher.get_error()))
        return self._endless(bits)

    def _endless(self, found: bytes) -> np.ndarray:
        """Without the end tokens, where something else is left."""
        bits = np.frombuffer(found, np.uint8)
        if not bits.any():
            raise ConstraintFailed(NOTHING_FOLLOWS)
        if self._ends is None:
            return bits
        others = bits.copy()
        others[: len(self._ends)] &= ~self._ends
        return others if others.any() else bits
