"""Counting without locks: every tally has one writer thread, and a reader may look at any time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from model.operations import Operations
from server.buckets import (
    FIRST_TOKEN,
    IMBALANCES,
    INTER_TOKEN,
    MARGINS,
    OVERHEAD,
    SHARES,
    SIZES,
    WHOLE,
    Buckets,
)
from server.calllog import NOBODY, CallLog, Who
from server.engine.request import Outcome
from server.engine.stats import Compute, GroupUse, LayerRouting, RequestStats, Scarce, StepStats
from server.errors import Cancelled, DeadlineExceeded, EngineDown, InternalError, QueueFull, ServiceError, Unavailable
from server.windows import RoutingWindows

UNKNOWN = "unknown"  # the label of what is none of ours: a model that is not served, a method that does not exist
SHED = "shed"  # before the engine: no room, or nobody there
OUTCOMES: tuple[str, ...] = (*Outcome, SHED)
PARTS = tuple(field.name for field in fields(Operations))
TRANSPORTS, DIRECTIONS = ("rest", "grpc"), ("received", "sent")
CAUSES = ("queue", "cache", "prefill", "preemption", "overhead")


@dataclass(frozen=True, slots=True)
class RoutingCounts:
    """How one model routed since it was declared, all of it after the same step."""

    passes: int
    tokens: int
    loads: tuple[np.ndarray, ...]  # per mixture layer, tokens of each expert
    distinct: np.ndarray  # per mixture layer, experts that passes touched, each pass counted
    margins: np.ndarray  # per mixture layer, gate margins summed over tokens
    running: int
    waiting: int


def outcome_of(error: BaseException) -> str:
    """How a call ended that never reached an engine, by what was raised."""
    if isinstance(error, DeadlineExceeded):
        return Outcome.DEADLINE
    if isinstance(error, asyncio.CancelledError | Cancelled):
        return Outcome.CANCELLED
    if isinstance(error, EngineDown | InternalError) or not isinstance(error, ServiceError):
        return Outcome.ERROR
    return SHED if isinstance(error, QueueFull | Unavailable) else Outcome.REJECTED


class EngineTally:
    """What one engine told. Written by its thread only."""

    def __init__(self, experts: Sequence[int], measured: bool = False, groups: tuple[GroupUse, ...] = ()) -> None:
        """`experts`: their number in each mixture layer; `measured`: whether it is known what the machine can do;
        `groups`: blocks before the first step."""
        self.received = 0
        self.outcomes = Counter(dict.fromkeys(OUTCOMES, 0))  # every key from the start: readers iterate
        self.prompt = self.cached = self.recomputed = self.preemptions = 0
        self.prefill = self.decode = self.generated = 0
        self.drafted = self.accepted = 0
        self.running = self.waiting = 0
        self.waiting_for = dict.fromkeys(map(str, Scarce), 0)
        self.stalls = dict.fromkeys(CAUSES, 0.0)
        self.groups = groups
        self.first_token, self.inter_token = Buckets(FIRST_TOKEN), Buckets(INTER_TOKEN)
        self.whole, self.queue = Buckets(WHOLE), Buckets(FIRST_TOKEN)
        self.prefill_time, self.decode_time = Buckets(FIRST_TOKEN), Buckets(WHOLE)
        self.token_time = Buckets(INTER_TOKEN)
        self.step_time, self.forward_time = Buckets(FIRST_TOKEN), Buckets(FIRST_TOKEN)
        self.overhead = Buckets(OVERHEAD)
        self.step_tokens, self.step_rows = Buckets(SIZES), Buckets(SIZES)
        self.entropy, self.imbalance, self.margin = Buckets(SHARES), Buckets(IMBALANCES), Buckets(MARGINS)
        self.busiest = Buckets(SHARES)
        self.windows = RoutingWindows(experts)
        self.flops = dict.fromkeys(PARTS, 0)
        self.stepping, self.forward = ({"prefill": 0.0, "decode": 0.0} for _ in range(2))
        self.least = dict(self.forward) if measured else {}
        self.bound = {"memory": 0.0, "compute": 0.0} if measured else {}
        self.passes = self.weight_bytes = self.cache_read = self.cache_written = 0.0
        self.distinct, self.margins = np.zeros(len(experts), np.int64), np.zeros(len(experts))
        self._writes = 0  # odd while a step is being entered
        self._experts = tuple(experts)
        self._loads = np.zeros((len(experts), max(experts, default=0)), np.int64)  # as StepStats has them

    def routing(self) -> RoutingCounts:
        """How the model has routed so far; for readers on other threads, between two steps and never within one."""
        while True:
            writes = self._writes
            loads, distinct, margins = self._loads.copy(), self.distinct.copy(), self.margins.copy()
            passes, tokens = int(self.passes), self.prefill + self.decode
            counts = (self.running, self.waiting)
            if writes % 2 == 0 and writes == self._writes:
                layers = tuple(load[:count] for load, count in zip(loads, self._experts, strict=True))
                return RoutingCounts(passes, tokens, layers, distinct, margins, *counts)

    def step(self, stats: StepStats) -> None:
        self._writes += 1
        try:
            self._enter(stats)
        finally:
            self._writes += 1

    def _enter(self, stats: StepStats) -> None:
        self.running, self.waiting, self.groups = stats.running, stats.waiting, stats.groups
        self.waiting_for = {reason: stats.waiting if reason == stats.waiting_for else 0 for reason in self.waiting_for}
        self.preemptions += stats.preemptions
        if not stats.rows:
            return  # nothing was computed; requests left, or lost their blocks and wait
        self.prefill += stats.prefill_tokens
        self.decode += stats.decode_tokens
        self.recomputed += stats.recomputed_tokens
        self.drafted += stats.drafted_tokens
        self.accepted += stats.accepted_tokens
        self.generated += len(stats.first_tokens) + len(stats.gaps)
        self.first_token.observe_all(stats.first_tokens)
        self.inter_token.observe_all(stats.gaps)
        self.step_time.observe(stats.seconds)
        self.forward_time.observe(stats.forward_seconds)
        self.overhead.observe(max(0.0, stats.seconds - stats.forward_seconds))
        self.step_tokens.observe(stats.prefill_tokens + stats.decode_tokens)
        self.step_rows.observe(stats.rows)
        self._work(stats.compute)
        self._reach(stats)
        if self._experts:
            self.distinct += stats.distinct_experts
            self.margins += stats.margins
            self._loads += stats.expert_tokens
            tokens, phase = stats.prefill_tokens + stats.decode_tokens, "prefill" if stats.prefill_tokens else "decode"
            self.windows.enter(phase, tokens, stats.expert_tokens, stats.margins)

    def _work(self, work: Compute) -> None:
        flops, operations = self.flops, work.operations
        for part in PARTS:
            flops[part] += getattr(operations, part)
        self.passes += work.passes
        self.weight_bytes += work.weight_bytes
        self.cache_read += work.cache_read_bytes
        self.cache_written += work.cache_written_bytes

    def _reach(self, stats: StepStats) -> None:
        """How long the model took, and the least it could have taken; the quotient is the share of the roofline."""
        phase, work = "prefill" if stats.prefill_tokens else "decode", stats.compute
        self.stepping[phase] += stats.seconds
        self.forward[phase] += stats.forward_seconds
        if self.least:
            self.least[phase] += work.memory_bound_seconds + work.compute_bound_seconds
            self.bound["memory"] += work.memory_bound_seconds
            self.bound["compute"] += work.compute_bound_seconds

    def finish(self, stats: RequestStats) -> None:
        self.outcomes[stats.outcome] += 1
        self.prompt += stats.prompt_tokens
        self.cached += stats.cached_tokens
        self._lost(stats)
        who = {"request_id": stats.call}
        if stats.trace is not None:
            who["trace_id"] = stats.trace.trace_id
        latency = stats.latency
        self.whole.observe(latency.total, who)
        self.queue.observe(latency.queued, who)
        if stats.completion_tokens:
            self.prefill_time.observe(latency.prefill, who)
            self.decode_time.observe(latency.decode, who)
            self.first_token.name(latency.first_token, who)
        if stats.completion_tokens > 1:
            self.token_time.observe(latency.decode / (stats.completion_tokens - 1), who)
            self.inter_token.name(latency.inter_token.maximum, who)  # its longest gap
        if stats.routing and stats.routed_tokens:
            self._routed(stats.routing, who)

    def _routed(self, layers: Sequence[LayerRouting], who: dict[str, str]) -> None:
        """Means of a request's layers, with the expert that took the largest share of any layer."""
        hot = max(layers, key=lambda layer: layer.busiest_share)
        who = who | {"hot_expert": f"{hot.layer}/{hot.expert_tokens.index(max(hot.expert_tokens))}"}
        for tally, values in (
            (self.entropy, [layer.entropy for layer in layers]),
            (self.imbalance, [layer.imbalance for layer in layers]),
            (self.margin, [layer.margin for layer in layers]),
            (self.busiest, [layer.busiest_share for layer in layers]),
        ):
            tally.observe(sum(values) / len(layers), who)

    def _lost(self, stats: RequestStats) -> None:
        """Where a request's time went that no token of its own was computed in."""
        latency, stalls = stats.latency, self.stalls
        stalls["queue"] += latency.queued - stats.short_of_blocks
        stalls["cache"] += stats.short_of_blocks
        stalls["prefill"] += latency.delayed
        stalls["preemption"] += latency.preempted
        stalls["overhead"] += max(0.0, latency.total - latency.queued - latency.forward - latency.preempted)


class DoorTally:
    """What the transports and the service told: calls that never reached an engine, and every answer by its code.

    Written by the event loop's thread only, by a transport through its Door.
    """

    def __init__(self) -> None:
        self.unserved = Counter[tuple[str, str]]()  # (model, outcome)
        self.answers = Counter[tuple[str, str, str]]()  # (transport, method, code)
        self.open = Counter[str](dict.fromkeys(TRANSPORTS, 0))
        self.bytes = Counter[tuple[str, str]]({(t, d): 0 for t in TRANSPORTS for d in DIRECTIONS})


class Door:
    """Where one transport tells what it does, into the tally of all of them."""

    def __init__(self, tally: DoorTally, transport: str, lines: CallLog | None = None) -> None:
        """`transport`: one of TRANSPORTS. `lines`: that of the other doors; None: one of its own."""
        self._tally = tally
        self._lines = lines or CallLog()
        self._transport = transport

    def opened(self) -> None:
        """A call begins to be answered; `closed` follows."""
        self._tally.open[self._transport] += 1

    def closed(self) -> None:
        """A call that was `opened` is answered no more."""
        self._tally.open[self._transport] -= 1

    def answered(self, method: str, code: str, who: Who = NOBODY) -> None:
        """A call got its answer. `method` and `code` are from closed sets."""
        self._tally.answers[self._transport, method, code] += 1
        self._lines.tell(self._transport, method, code, who)

    def moved(self, direction: str, count: int) -> None:
        """So many bytes of bodies or messages were "received" or "sent"."""
        self._tally.bytes[self._transport, direction] += count
