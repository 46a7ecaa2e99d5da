"""The facts that flow up from the engine, and the Observer that receives them. No torch here.

Times are seconds. Clock readings come from the engine's monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from model.operations import Operations
from server.engine.request import Outcome, Trace


class Scarce(StrEnum):
    """What the first of the queue waits for. Closed set: it is a metric label."""

    ROWS = "rows"  # as many run as may
    TOKENS = "tokens"  # the step's tokens went to others
    BLOCKS = "blocks"  # of the cache
    PREFIX = "prefix"  # nothing: another request computes the beginning it shares


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in a few numbers; all zero when `count` is 0."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Where one request's time went. first_token = queued + prefill, which holds what preemption took before it."""

    queued: float  # arrival → first scheduled
    prefill: float  # first scheduled → first token
    first_token: float  # arrival → first token
    decode: float  # first token → last token
    inter_token: Spread  # gaps between successive tokens
    total: float  # arrival → end
    forward: float = 0.0  # inside the model, the passes it took part in, whole
    delayed: float = 0.0  # of these, its one token's wait for neighbours' prompts: by tokens, their part of the pass
    preempted: float = 0.0  # from losing its blocks to the next token, but for the passes it took part in


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """What one mixture layer did with a request's computed tokens (prompt, cached prefix included, and outputs but the
    last, which was drawn and never fed back)."""

    layer: int
    expert_tokens: tuple[int, ...]  # tokens that each processed
    dropped: int  # choices lost to capacity; sum(expert_tokens) + dropped == tokens * top-k
    entropy: float  # of the load over experts, 0 (one expert) .. 1 (even)
    imbalance: float  # busiest expert's load over the mean load
    busiest_share: float  # busiest expert's part of all choices
    mean_gate: float  # mean weight of a token's first choice
    margin: float  # mean of how far the last chosen expert was ahead of the best that was not, in the router's scores


@dataclass(frozen=True, slots=True)
class RoutingSummary:
    """All mixture layers of a request together; means are over the layers."""

    layers: int
    dropped: int  # choices lost to capacity, of all layers
    touched_experts: int  # that any token went to, of all layers
    experts: int  # of all layers
    entropy: float
    lowest_entropy: float
    imbalance: float
    highest_imbalance: float
    busiest_share: float
    mean_gate: float
    margin: float


@dataclass(frozen=True, slots=True)
class Compute:
    """What a request or a step computed and moved. `docs/telemetry.md` has every definition."""

    operations: Operations  # floating-point operations by part
    weight_bytes: float  # read; a request bears its part of each pass, by tokens
    cache_read_bytes: int
    cache_written_bytes: int
    tokens: int  # that went through the model, wrong drafts included
    passes: float  # forward passes; a request has its part of each, by tokens
    seconds: float  # inside the model, by the same parts
    parameters: int = 0  # of a request: all that any of its tokens passed
    memory_bound_seconds: float = 0.0  # of these, the least, where a pass waits for memory rather than for operations
    compute_bound_seconds: float = 0.0  # and where it waits for operations; both 0 where the machine was not measured


NOTHING = Compute(Operations(), 0.0, 0, 0, 0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class RequestStats:
    """Everything known about one request when it has ended."""

    id: str
    model: str
    outcome: Outcome
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # prompt tokens found in the prefix cache
    recomputed_tokens: int  # tokens computed again after a preemption
    preemptions: int
    steps: int  # forward passes it took part in
    mean_batch: float  # rows it shared them with, itself included
    cache_bytes: int  # most cache memory held at once
    latency: Latency
    routed_tokens: int  # tokens the routing below speaks of
    routing: tuple[LayerRouting, ...]  # empty for a model without experts
    drafted_tokens: int = 0  # guessed and computed beside the request's own
    accepted_tokens: int = 0  # of these, became outputs without a step of their own
    cache_byte_seconds: float = 0.0  # cache memory held, times how long
    compute: Compute = NOTHING
    short_of_blocks: float = 0.0  # of latency.queued, while the queue waited for cache blocks
    trace: Trace | None = None
    given_id: str | None = None
    user: str | None = None
    tenant: str = ""

    @property
    def call(self) -> str:
        """The id of the call it belongs to, which its caller was told."""
        return self.id.rpartition("-")[0] or self.id

    @property
    def choice(self) -> int:
        """Which of that call's answers it is."""
        return int(self.id.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class GroupUse:
    """Blocks of one cache group: used + cached (evictable) + empty = total."""

    total: int
    used: int
    cached: int


@dataclass(frozen=True, slots=True, eq=False)
class StepStats:
    """One step of one model. Its arrays are whole, for receivers to add up as they are, and nobody changes them."""

    model: str
    number: int
    seconds: float  # whole step
    forward_seconds: float  # inside the model
    rows: int  # 0 when nothing was run, and only requests that left are told of
    prefill_tokens: int  # tokens of rows still catching up with their prompt
    decode_tokens: int  # tokens of rows that feed back one output, and accepted drafts
    recomputed_tokens: int
    preemptions: int
    running: int
    waiting: int
    groups: tuple[GroupUse, ...]
    expert_tokens: np.ndarray  # (mixture layers, most experts): tokens each processed; 0 where a layer has fewer
    distinct_experts: np.ndarray  # per mixture layer, experts that the step read; two passes count both
    margins: np.ndarray  # per mixture layer, gate margin summed over prefill and decode tokens
    first_tokens: tuple[float, ...]  # time to first token of requests that got it in this step
    gaps: tuple[float, ...]  # inter-token gaps closed in this step; tokens that came together are 0 apart
    drafted_tokens: int = 0  # computed as a guess; those that were right are decode tokens, the others nobody's
    accepted_tokens: int = 0
    compute: Compute = NOTHING
    waiting_for: Scarce | None = None  # None when nobody waits


class Observer(Protocol):
    """Receives facts. Never raises into the engine: the engine guards each call, counts and drops a failing one."""

    def received(self, model: str, prompt_tokens: int) -> None:
        """A request was accepted by the engine."""

    def stepped(self, stats: StepStats) -> None: ...

    def finished(self, stats: RequestStats) -> None: ...
