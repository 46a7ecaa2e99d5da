"""What passes between the scheduler and whatever runs the model: one frozen Step down, one StepResult up. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from model.config import Span
from server.engine.request import Request, Routes


class Row(NamedTuple):
    """One request's part of a step: positions [start, start + count) are computed.

    A tuple, because one is made for every row of every step, and a frozen dataclass takes three times as long.
    """

    request: Request
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    tables: tuple[tuple[int, ...], ...]
    """Per cache group, the block holding each block_size positions from 0; 0 stands for a block already given back."""
    prior: np.ndarray | None = None
    """For routers with a capacity: (mixture layers, experts), how many tokens before `start` chose each."""
    source: tuple[int, ...] = ()
    """The blocks that hold the memory of the request's source."""
    encodes: bool = False
    """Whether the source must be read into these blocks first."""

    @property
    def samples(self) -> bool:
        """Whether this row ends at the last known token, so that a next one is drawn."""
        return self.start + self.count == self.request.num_tokens


@dataclass(frozen=True, slots=True)
class Step:
    number: int
    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        return sum(row.count for row in self.rows)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities of one drawn token, before temperature and truncation."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave. `tokens` and `logprobs` have one entry for each row that samples, in row order."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    routes: Routes | None = None
    """One row for each token of the step, rows in order; None for a model without experts."""
    failed: dict[int, str] = field(default_factory=dict)
    """Index of a row in the step → why it has no token (for instance "nan"); its entry in `tokens` is meaningless."""
    forward_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers of one span share block tables. Block 0 of every pool is never handed out: it stands for "no block"."""

    span: Span
    num_blocks: int
    bytes_per_block: int


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
    def memory(self) -> CacheGroup | None:
        """Where cross-attention finds the sources of requests; None for a model without an encoder."""
        ...

    def run(self, step: Step) -> StepResult: ...
