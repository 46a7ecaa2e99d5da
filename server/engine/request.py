"""A request as the engine knows it: three lengths, from which everything else is derived. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from server.engine.constraint import Constraint
from server.engine.seen import Seen


class Outcome(StrEnum):
    """How a request ended. Closed set: it is a metric label."""

    STOP = "stop"  # an end token or a stop string
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # the client is gone or said so, or an operator did: nobody failed
    DEADLINE = "deadline"  # its time ran out
    REJECTED = "rejected"  # its constraint cannot be followed: the caller's doing
    ERROR = "error"  # a fault of ours, or we went before it was complete


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Ranges are checked by the service; here every value is already good.

    max_tokens 0 computes the prompt and nothing more. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off.
    `logprobs` None asks for none, n for the chosen token's and the n best; `prompt_logprobs` for those of the prompt's
    tokens, all but the first. `seed` fixes the draw whatever the batch; the service fills it in when none is given.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    logprobs: int | None = None
    stop_ids: frozenset[int] = frozenset()  # that the model can say; with end tokens, unless the user ignores them
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities of one token, before temperature, edits and truncation."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 0  # 1 for the likeliest token


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a request belongs in a trace (W3C trace context): the trace's id and that of the span above, in lower-case
    hexadecimal, and whether the trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool


class StopCondition(Protocol):
    """Decides on text, token by token, whether a request has said its last word (stop strings)."""

    def push(self, token: int) -> bool:
        """Take the next token; True when the request must stop here."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One sequence being continued. Only the engine thread changes it after submission.

    tokens:  |<- prompt ->|<- outputs ->|
             |<- num_computed ->|<- to compute ->|      num_computed <= num_tokens, a step moves it up
    """

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    arrived: float  # clock of the engine, seconds
    deadline: float | None = None
    stop: StopCondition | None = None
    cache_salt: bytes = b""  # requests share cached prefixes only under the same salt
    source: tuple[int, ...] = ()  # what the encoder reads, for models that have one; `prompt` then begins the answer
    priority: int = 0  # each step down counts as if it had arrived a little earlier
    constraint: Constraint | None = None  # what the outputs may be
    trace: Trace | None = None
    given_id: str | None = None  # its caller's name for it
    user: str | None = None  # its caller's label for whoever asked
    tenant: str = ""  # the operator's name for its caller
    outputs: list[int] = field(default_factory=list)
    scores: list[TokenLogprobs] = field(default_factory=list)  # of prompt[1:], as far as they are known and asked for
    num_computed: int = 0
    seen: Seen | None = None  # made when a penalty first asks for it
    started: bool = False  # whether it ever had a seat in a step; losing its blocks does not change that

    @property
    def num_prompt_tokens(self) -> int:
        """What the user's prompt came to, the encoder's part and the decoder's."""
        return len(self.source) + len(self.prompt)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.outputs)

    @property
    def failure(self) -> str | None:
        """Why its constraint can say no more."""
        return None if self.constraint is None else self.constraint.failure

    @property
    def unscored(self) -> int | None:
        """The first position that must be computed for its logits, even when its cache entries are at hand; None when
        there is no such position."""
        complete = self.sampling.prompt_logprobs is None or len(self.scores) >= len(self.prompt) - 1
        return None if complete else len(self.scores)

    @property
    def num_uncomputed(self) -> int:
        return self.num_tokens - self.num_computed

    def tokens(self, start: int, stop: int) -> list[int]:
        """The token ids at positions [start, stop)."""
        split = len(self.prompt)
        if stop <= split:
            return list(self.prompt[start:stop])
        if start >= split:
            return self.outputs[start - split : stop - split]
        return [*self.prompt[start:], *self.outputs[: stop - split]]


@dataclass(frozen=True, slots=True)
class Routes:
    """Which experts tokens were sent to: one row a token.

    experts (tokens, mixture layers, top-k) int16: expert ids in order of choice, padded with model.routing.PAD where a
    layer has a smaller top-k; an expert that dropped the token for lack of capacity is stored as ~id (negative).
    gates, the same shape, float32: the weight each chosen expert had.
    margins (tokens, mixture layers) float32: how far the last chosen expert was ahead of the best that was not, in what
    the router chooses by (model.moe.Routing).
    """

    experts: np.ndarray
    gates: np.ndarray
    margins: np.ndarray

    def __len__(self) -> int:
        return len(self.experts)

    def part(self, start: int, stop: int) -> Routes:
        return Routes(self.experts[start:stop], self.gates[start:stop], self.margins[start:stop])

    @staticmethod
    def join(parts: list[Routes]) -> Routes:
        columns = zip(*((part.experts, part.gates, part.margins) for part in parts), strict=True)
        return Routes(*(np.concatenate(column) for column in columns))
