"""Numbers from records. Pure functions; times in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from client.load.record import Record


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile, q in [0, 1], linear between the two nearest values; NaN of nothing."""
    return float(np.quantile(values, q)) if len(values) else float("nan")


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution in a few numbers; NaN where `count` is 0."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    maximum: float

    @staticmethod
    def of(values: Sequence[float]) -> Distribution:
        if not len(values):
            nan = float("nan")
            return Distribution(0, nan, nan, nan, nan, nan, nan)
        p50, p90, p95, p99 = (float(q) for q in np.quantile(values, (0.5, 0.9, 0.95, 0.99)))
        return Distribution(len(values), float(np.mean(values)), p50, p90, p95, p99, float(np.max(values)))


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request must keep to count as good; None asks for nothing. Seconds."""

    first_token: float | None = None
    per_token: float | None = None
    total: float | None = None

    @property
    def asks(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in (self.first_token, self.per_token, self.total))

    @property
    def slowest(self) -> float | None:
        """The longest that a request may wait or take; None where only its tokens are limited."""
        return max((limit for limit in (self.first_token, self.total) if limit is not None), default=None)

    def met(self, record: Record) -> bool:
        """Whether a request was answered whole and within every limit. An error never meets an objective, nor do tokens
        that nobody saw come."""
        tokens = record.completion_tokens
        limits = (
            (record.first_token, self.first_token, tokens > 0),
            (record.per_token, self.per_token, tokens > 1),
            (record.total, self.total, True),
        )
        return record.ok and all(
            limit is None or (not due if value is None else value <= limit) for value, limit, due in limits
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run, or several runs of the same load, came to. Rates are per second of the runs' own duration."""

    requests: int
    completed: int
    errors: int
    cancelled: int  # left on purpose, as the trace said; neither completed nor errors
    seconds: float
    request_rate: float
    output_tokens: int  # of the completed, and those that came to users before they left
    output_rate: float  # generated tokens a second
    total_rate: float  # prompt and generated tokens a second
    goodput: float  # requests a second that met the objective
    goodput_share: float  # of the requests whose users did not leave; NaN of none
    first_token: Distribution  # from the intended send to the first piece
    inter_token: Distribution  # every gap between tokens, of all requests; 0 within a piece
    per_token: Distribution  # each request's mean time of a token after the first
    total: Distribution  # from the intended send to the end
    lag: Distribution  # how late the client sent: intended to actual send
    queued: Distribution  # the server's word, as are those below; empty from servers that do not tell
    cached_share: float  # of the prompt tokens, found in the prefix cache
    entropy: float  # of routing, mean over requests and layers; NaN without experts
    imbalance: float  # busiest expert over the mean, likewise


def summarise(records: Sequence[Record], seconds: float, objective: Objective | None = None) -> Summary:
    """Latencies are of the completed requests; errors are counted beside them, never dropped. A user who leaves has had
    tokens, and they were work."""
    good = [r for r in records if r.ok]
    prompt_tokens, output_tokens = sum(r.prompt_tokens for r in good), sum(r.tokens for r in records if not r.error)
    met = sum((objective or Objective()).met(r) for r in good)
    cancelled = sum(r.cancelled for r in records)
    stayed = len(records) - cancelled
    span = seconds if seconds > 0 else float("nan")
    entropy, imbalance = routing_means(good)
    return Summary(
        requests=len(records),
        completed=len(good),
        errors=sum(bool(r.error) for r in records),
        cancelled=cancelled,
        seconds=seconds,
        request_rate=len(good) / span,
        output_tokens=output_tokens,
        output_rate=output_tokens / span,
        total_rate=(prompt_tokens + sum(r.tokens for r in good)) / span,
        goodput=met / span,
        goodput_share=met / stayed if stayed else float("nan"),
        first_token=Distribution.of([r.first_token for r in good if r.first_token is not None]),
        inter_token=Distribution.of([gap for r in good for gap in gaps(r)]),
        per_token=Distribution.of([r.per_token for r in good if r.per_token is not None]),
        total=Distribution.of([r.total for r in good]),
        lag=Distribution.of([r.lag for r in records]),
        queued=Distribution.of([r.facts.latency.queued for r in good if r.facts and r.facts.latency]),
        cached_share=_cached(good) / prompt_tokens if prompt_tokens else float("nan"),
        entropy=entropy,
        imbalance=imbalance,
    )


def gaps(record: Record) -> tuple[float, ...]:
    """Seconds between successive tokens of one answer; 0 between those that came in one piece."""
    return tuple(later - earlier for earlier, later in pairwise(record.arrivals))


def routing_means(records: Sequence[Record]) -> tuple[float, float]:
    """Means over every request and layer with experts, (entropy, imbalance); NaN without any."""
    routed = [r.facts.routing for r in records if r.facts is not None and r.facts.routing is not None]
    layers = [layer for routing in routed for layer in routing.layers]
    if not layers:
        return float("nan"), float("nan")
    return float(np.mean([one.entropy for one in layers])), float(np.mean([one.imbalance for one in layers]))


def _cached(records: Sequence[Record]) -> int:
    return sum(r.facts.usage.cached_tokens for r in records if r.facts is not None)
