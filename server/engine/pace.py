"""How fast an engine goes: what a step may take, in time and in tokens, and that it goes on at all. No torch here."""

from __future__ import annotations

FIRST_STEP = 600.0  # seconds: it may have kernels to build
SLACK = 4.0
"""How much longer a full step may take than its tokens would at the best pace so far: they may look at far more."""


LEAST_CHUNK = 64
"""Tokens of prompts that a step may always take: with fewer, the weights are read too often for them."""


class NoProgress(RuntimeError):
    """There was work, and two steps in a row computed nothing: a fault of the scheduler that would otherwise spin."""


class Progress:
    """Watches that an engine moves on. One empty step can happen when an allocation is made to fail; two in a row would
    go on for ever."""

    def __init__(self, engine: str, max_batch_tokens: int, chunk_seconds: float | None = None) -> None:
        self._engine, self._max_batch_tokens, self._chunk_seconds = engine, max_batch_tokens, chunk_seconds
        self._idle_steps = 0  # in a row
        self._longest_source = 0
        self._pace: float | None = None  # the least seconds a token of any step so far

    @property
    def longest_step(self) -> float:
        """Seconds that a step may honestly take; read from any thread."""
        most = self._max_batch_tokens + self._longest_source
        return FIRST_STEP if self._pace is None else SLACK * most * self._pace

    @property
    def chunk(self) -> int:
        """Tokens of prompts that a step may take beside answers, so that it holds them up by about `chunk_seconds`
        at the best pace so far; without a bound all."""
        if not self._pace or self._chunk_seconds is None:
            return self._max_batch_tokens
        return int(min(self._max_batch_tokens, max(LEAST_CHUNK, self._chunk_seconds / self._pace)))

    def expect(self, source: int) -> None:
        """A source of so many tokens may be read, in a step that it need not fit."""
        self._longest_source = max(self._longest_source, source)

    def took(self, tokens: int, seconds: float) -> None:
        """A step computed so many tokens in so long."""
        if tokens:
            self._pace = seconds / tokens if self._pace is None else min(self._pace, seconds / tokens)

    def watch(self, idle: str) -> None:
        """A step computes something, or, where it should and does not, `idle` says for whom. Raises NoProgress."""
        self._idle_steps = self._idle_steps + 1 if idle else 0
        if self._idle_steps > 1:
            raise NoProgress(f"{self._engine}: {idle} got no token")
