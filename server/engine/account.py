"""What is found out while it happens: about one request, and about one step. No torch here."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from server.engine.request import Outcome, Request
from server.engine.routes import RouteLog
from server.engine.stats import Compute, Latency, LayerRouting, RequestStats, Spread
from server.engine.step import Row
from server.engine.work import Work


class Shortage:
    """How long the queue of an engine has waited for cache blocks so far, to a step."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def look(self, now: float, short: bool) -> None:
        """A step begins now, and from now on the queue is or is not short of blocks."""
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now if short else None


@dataclass(slots=True, eq=False)
class Account:
    """The facts of one request so far. Clock readings are of the engine's clock, in seconds."""

    arrived: float
    routes: RouteLog | None = None  # None for a model without experts
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float = 0.0
    gaps: array[float] = field(default_factory=lambda: array("d"))
    reach: int = 0  # tokens that were ever in the cache, found there or computed
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    steps: int = 0
    batch_rows: int = 0  # summed over the steps
    work: Work = field(default_factory=Work)
    encoder_experts: tuple[int, ...] = ()  # of each of the encoder's mixture layers, that its source touched
    forward_seconds: float = 0.0  # of the passes it took part in, whole
    delayed_seconds: float = 0.0  # of these, on account of neighbours' prompts
    preempted_seconds: float = 0.0
    lost_at: float | None = None  # preempted then, and no token since
    held_bytes: int = 0  # of cache, since `held_since`
    held_since: float = 0.0
    byte_seconds: float = 0.0
    shortage: Shortage = field(default_factory=Shortage)
    short_before: float = 0.0  # reading of the shortage when the request was queued
    short_until: float | None = None  # and when it was scheduled

    def __post_init__(self) -> None:
        self.short_before = self.shortage.seconds

    def seated(self, now: float, rows: int, held_bytes: int) -> None:
        """It takes part in a step of so many rows that begins now, and holds so much of the cache."""
        self.holds(now, held_bytes)
        if self.scheduled_at is None:
            self.scheduled_at, self.short_until = now, self.shortage.seconds
        self.steps += 1
        self.batch_rows += rows

    def holds(self, now: float, held_bytes: int) -> None:
        """From now on so many bytes of the cache."""
        self.byte_seconds += self.held_bytes * (now - self.held_since)
        self.held_bytes, self.held_since = held_bytes, now

    def lost(self, now: float) -> None:
        """Its blocks were taken from it."""
        self.holds(now, 0)
        self.lost_at = now if self.lost_at is None else self.lost_at

    def found(self, tokens: int) -> None:
        """So many tokens were handed out from the prefix cache."""
        self.cached_tokens += max(0, tokens - self.reach)
        self.reach = max(self.reach, tokens)

    def computed(self, start: int, stop: int) -> int:
        """Positions [start, stop) were computed; returns how many of them not for the first time."""
        if start >= self.reach:
            self.reach = stop
            return 0
        again = min(stop, self.reach) - start
        self.recomputed_tokens += again
        self.reach = max(self.reach, stop)
        return again

    def drew(self, now: float) -> float | None:
        """A token was drawn; returns the gap to the one before, None for the first."""
        before, self.last_token_at = self.last_token_at, now
        if self.lost_at is not None:
            self.preempted_seconds, self.lost_at = self.preempted_seconds + now - self.lost_at, None
        if self.first_token_at is None:
            self.first_token_at = now
            return None
        gap = now - before
        self.gaps.append(gap)
        return gap

    def short(self, queued: float) -> float:
        """Of so many seconds in the queue, those in which it was short of blocks."""
        until = self.shortage.seconds if self.short_until is None else self.short_until
        return min(until - self.short_before, queued)

    def latency(self, now: float) -> Latency:
        """Where the time until `now` went; a phase that was not reached is 0, one that was cut short ends now."""
        scheduled = now if self.scheduled_at is None else self.scheduled_at
        drawn = self.first_token_at
        return Latency(
            queued=scheduled - self.arrived,
            prefill=(now if drawn is None else drawn) - scheduled,
            first_token=0.0 if drawn is None else drawn - self.arrived,
            decode=0.0 if drawn is None else self.last_token_at - drawn,
            inter_token=spread(self.gaps),
            total=now - self.arrived,
            forward=self.forward_seconds,
            delayed=self.delayed_seconds,
            preempted=self.preempted_seconds + (0.0 if self.lost_at is None else now - self.lost_at),
        )


@dataclass(slots=True, eq=False)
class Tally:
    """One step's readings of the clock, and what adds up over it."""

    began: float
    now: float  # when the model was done: the time of every token of the step
    loads: np.ndarray  # (mixture layers, most experts) int64
    margins: np.ndarray  # (mixture layers,) summed over the tokens
    distinct: np.ndarray  # (mixture layers,) experts touched
    work: Work = field(default_factory=Work)
    forward_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    recomputed_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    first_tokens: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def ran(self, row: Row, accepted: int = 0) -> None:
        """A row was computed, and so many of its drafts were right; those that were not are no tokens of anybody."""
        if row.feeds_back:
            self.decode_tokens += 1 + accepted
        else:
            self.prefill_tokens += row.count - len(row.drafts)
            self.decode_tokens += accepted
        self.drafted_tokens += len(row.drafts)
        self.accepted_tokens += accepted

    def drew(self, account: Account) -> None:
        gap = account.drew(self.now)
        if gap is None:
            self.first_tokens.append(self.now - account.arrived)
        else:
            self.gaps.append(gap)


def summary(
    model: str,
    request: Request,
    account: Account,
    outcome: Outcome,
    now: float,
    *,
    cache_bytes: int,
    routing: tuple[LayerRouting, ...],
    compute: Compute,
) -> RequestStats:
    """Everything known about a request that ends now."""
    latency = account.latency(now)
    return RequestStats(
        id=request.id,
        model=model,
        outcome=outcome,
        prompt_tokens=request.num_prompt_tokens,
        completion_tokens=len(request.outputs),
        cached_tokens=account.cached_tokens,
        recomputed_tokens=account.recomputed_tokens,
        preemptions=account.preemptions,
        drafted_tokens=account.drafted_tokens,
        accepted_tokens=account.accepted_tokens,
        steps=account.steps,
        mean_batch=account.batch_rows / account.steps if account.steps else 0.0,
        cache_bytes=cache_bytes,
        latency=latency,
        routed_tokens=0 if account.routes is None else len(account.routes),
        routing=routing,
        cache_byte_seconds=account.byte_seconds,
        compute=compute,
        short_of_blocks=account.short(latency.queued),
        trace=request.trace,
        given_id=request.given_id,
        user=request.user,
        tenant=request.tenant,
    )


def spread(values: Sequence[float]) -> Spread:
    """A distribution's mean, percentiles (linear between the two nearest values) and maximum."""
    if not values:
        return Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    ordered = np.sort(np.asarray(values, np.float64))
    marks = np.array([0.5, 0.9, 0.99]) * (len(ordered) - 1)
    p50, p90, p99 = np.interp(marks, np.arange(len(ordered)), ordered).tolist()
    return Spread(len(ordered), float(ordered.mean()), p50, p90, p99, float(ordered[-1]))
