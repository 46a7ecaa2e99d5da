"""What passes between the scheduler and whatever runs the model: one frozen Step down, one StepResult up. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from model.cache import Carried
from model.config import Span
from model.costs import Costs
from server.engine.request import Request, Routes, TokenLogprobs


class Row(NamedTuple):
    """One request's part of a step: positions [start, start + count) are computed.

    |<- computed before ->|<- known tokens ->|<- drafts ->|
                        start      request.num_tokens    start + count

    Drafts are tokens that are only guessed to follow; they are computed like the others, and what is drawn before each
    confirms it or not. `select` says whose logits are wanted: from that position on, every one of the row. Where the
    next token is known (a prompt whose log-probabilities were asked for), it is scored, and where not, it is drawn:

    prompt 3 4 5, all known, select None    wanted: 2          draws the token at 3
    prompt 3 4 5, all known, select 0       wanted: 0, 1, 2    scores 4 and 5, draws the token at 3
    then 6 7, drafts 8 9, start 4           wanted: 4, 5, 6    draws after 7, after 7 8 and after 7 8 9

    A tuple, because one is made for every row of every step, and a frozen dataclass takes three times as long.
    """

    request: Request
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    tables: tuple[np.ndarray, ...]
    """Per cache group int64, the block of each block_size positions from 0; 0 stands for one already given back."""
    prior: np.ndarray | None = None
    """For routers with a capacity: (mixture layers, experts), how many tokens before `start` chose each."""
    source: tuple[int, ...] = ()
    """The blocks that hold the memory of the request's source."""
    encodes: bool = False
    """Whether the source must be read into these blocks first."""
    drafts: tuple[int, ...] = ()
    """The last tokens of the row, when they are guesses. Only a row that reaches the last known token has any."""
    select: int | None = None
    """The first position whose logits are wanted; None: that of the last known token."""

    @property
    def load(self) -> int:
        """How many tokens go through the model for it: its own, and those of a source that is read."""
        return self.count + (len(self.request.source) if self.encodes else 0)

    @property
    def tokens(self) -> list[int]:
        """The ids of the row's tokens."""
        known = self.request.tokens(self.start, self.start + self.count - len(self.drafts))
        return [*known, *self.drafts] if self.drafts else known

    @property
    def feeds_back(self) -> bool:
        """Whether it computes one output, and maybe guesses behind it, and nothing of the prompt."""
        return self.count - len(self.drafts) == 1 and self.start >= len(self.request.prompt)

    @property
    def wanted(self) -> range:
        """The positions whose logits are wanted."""
        first = self.request.num_tokens - 1 if self.select is None else self.select
        return range(max(self.start, first), self.start + self.count)

    @property
    def picks(self) -> list[Pick]:
        """One for each wanted position, in order."""
        request, drafts = self.request, self.drafts
        if not drafts:
            return [Pick(request, position) for position in self.wanted]
        known = request.num_tokens - 1
        return [Pick(request, position, drafts[: max(0, position - known)]) for position in self.wanted]


class Pick(NamedTuple):
    """A position whose logits are wanted: the token that follows is drawn, or scored where it is known."""

    request: Request
    position: int
    drafted: tuple[int, ...] = ()
    """What was guessed to stand between the last known token and the one that follows."""

    @property
    def known(self) -> int | None:
        """The token that follows, if the request has it already."""
        after = self.position + 1
        return self.request.tokens(after, after + 1)[0] if after < self.request.num_tokens else None

    @property
    def number(self) -> int:
        """Which output the token that follows is, from 0; a token of the prompt is negative."""
        return self.position + 1 - len(self.request.prompt)


@dataclass(frozen=True, slots=True)
class Step:
    number: int
    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        return sum(row.count for row in self.rows)


class Failure(NamedTuple):
    """What the model gave at a position, and so behind it, cannot be used."""

    why: str
    position: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave. `tokens` and `logprobs` have one entry for each pick of each row, in order: the token drawn
    after that position or, where it was known, that one."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    routes: Routes | None = None
    """One row for each token of the step, rows in order; None for a model without experts."""
    failed: dict[int, Failure] = field(default_factory=dict)
    """Index of a row in the step → from where on it has no tokens; their entries in `tokens` are meaningless."""
    forward_seconds: float = 0.0
    encoder_experts: tuple[tuple[int, ...], ...] = ()
    """For each row whose source was read, in order: how many experts of each of the encoder's mixture layers it
    touched."""


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers of one span share block tables, and so do all that carry a state, whose blocks hold it as it is after the
    last position in them. Block 0 of every pool is never handed out: it stands for "no block"."""

    span: Span | Carried
    num_blocks: int
    bytes_per_block: int
    every: int = 1
    """Of the blocks that a prompt fills in one step, only each so manieth and the last ones can be gone on from."""


@dataclass(frozen=True, slots=True)
class MixtureShape:
    """One mixture-of-experts layer, as statistics need to know it."""

    layer: int
    experts: int
    active: int
    limited: bool = False  # experts have a capacity: rows must bring `prior`


class DeviceLost(Exception):
    """A runner raises it when nothing can be run any more; any other exception is taken to be some row's doing."""


class Runner(Protocol):
    """Runs steps: the real one owns the model and the cache memory, the fake one of the tests counts on its fingers."""

    @property
    def block_size(self) -> int: ...

    @property
    def groups(self) -> tuple[CacheGroup, ...]: ...

    @property
    def mixtures(self) -> tuple[MixtureShape, ...]: ...

    @property
    def costs(self) -> Costs: ...

    @property
    def memory(self) -> CacheGroup | None:
        """Where cross-attention finds the sources of requests; None for a model without an encoder."""
        ...

    def run(self, step: Step) -> StepResult: ...
