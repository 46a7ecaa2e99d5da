"""The same facts under names that others look for, on demand: OpenTelemetry's of generative AI servers, and those
of vLLM that autoscalers, the inference extension of the Gateway API and common dashboards read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from server.buckets import Buckets
from server.engine.request import Outcome
from server.engine.stats import RequestStats
from server.metrics.families import Models, fill, histogram, numbers
from server.tally import EngineTally

# Bounds that OpenTelemetry advises for these three.
DURATION = tuple(0.01 * 2**i for i in range(14))
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
ATTRIBUTES = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
ANSWERED = (Outcome.STOP, Outcome.LENGTH)
REASONS = {"stop": (Outcome.STOP,), "length": (Outcome.LENGTH,), "abort": (Outcome.CANCELLED, Outcome.DEADLINE)}

HISTOGRAMS: tuple[tuple[str, Callable[[EngineTally], Buckets]], ...] = (
    ("vllm:time_to_first_token_seconds", lambda t: t.first_token),
    ("vllm:inter_token_latency_seconds", lambda t: t.inter_token),
    ("vllm:e2e_request_latency_seconds", lambda t: t.whole),
    ("vllm:request_queue_time_seconds", lambda t: t.queue),
    ("vllm:request_prefill_time_seconds", lambda t: t.prefill_time),
    ("vllm:request_decode_time_seconds", lambda t: t.decode_time),
)
COUNTERS: tuple[tuple[str, Callable[[EngineTally], float]], ...] = (
    ("vllm:prompt_tokens", lambda t: t.prompt),
    ("vllm:generation_tokens", lambda t: t.generated),
    ("vllm:prefix_cache_queries", lambda t: t.prompt),
    ("vllm:prefix_cache_hits", lambda t: t.cached),
    ("vllm:num_preemptions", lambda t: t.preemptions),
)
GAUGES: tuple[tuple[str, Callable[[EngineTally], float]], ...] = (
    ("vllm:num_requests_running", lambda t: t.running),
    ("vllm:num_requests_waiting", lambda t: t.waiting),
    (
        "vllm:kv_cache_usage_perc",  # a share of 1, whatever its name says
        lambda t: max((group.used / group.total for group in t.groups if group.total), default=0.0),
    ),
)


@dataclass(frozen=True, slots=True)
class GenAi:
    """What OpenTelemetry counts of one model. First tokens and time per token are of answered requests only."""

    duration: dict[str, Buckets] = field(  # by error type; "" for answered requests: no label
        default_factory=lambda: (
            {"": Buckets(DURATION)}
            | {str(outcome): Buckets(DURATION) for outcome in Outcome if outcome not in ANSWERED}
        )
    )
    first_token: Buckets = field(default_factory=lambda: Buckets(FIRST_TOKEN))
    token: Buckets = field(default_factory=lambda: Buckets(TOKEN))

    def finish(self, stats: RequestStats) -> None:
        answered, latency = stats.outcome in ANSWERED, stats.latency
        self.duration["" if answered else str(stats.outcome)].observe(latency.total)
        if answered and stats.completion_tokens:
            self.first_token.observe(latency.first_token)
        if answered and stats.completion_tokens > 1:
            self.token.observe((latency.total - latency.first_token) / (stats.completion_tokens - 1))


def of_peers(models: Models, genai: Mapping[str, GenAi]) -> Iterator[Metric]:
    """Every alias of these models."""
    yield from _genai(genai)
    yield from _vllm(models)


def _genai(genai: Mapping[str, GenAi]) -> Iterator[Metric]:
    text = "Arrival to end."
    duration = HistogramMetricFamily("gen_ai_server_request_duration_seconds", text, labels=[*ATTRIBUTES, "error_type"])
    text = "Arrival to first token."
    first = HistogramMetricFamily("gen_ai_server_time_to_first_token_seconds", text, labels=ATTRIBUTES)
    text = "First token to end, over the tokens after the first."
    token = HistogramMetricFamily("gen_ai_server_time_per_output_token_seconds", text, labels=ATTRIBUTES)
    for model, tally in genai.items():
        at = ["text_completion", "dyno", model]
        for error, buckets in tally.duration.items():
            fill(duration, [*at, error], buckets)
        fill(first, at, tally.first_token)
        fill(token, at, tally.token)
    yield from (duration, first, token)


def _vllm(models: Models) -> Iterator[Metric]:
    text, label = "The same as Dyno's own, under vLLM's name.", "model_name"
    for name, buckets in HISTOGRAMS:
        yield histogram(name, text, models, buckets, label=label)
    for name, read in COUNTERS:
        yield numbers(CounterMetricFamily, name, text, models, read, label=label)
    for name, read in GAUGES:
        yield numbers(GaugeMetricFamily, name, text, models, read, label=label)
    ended = CounterMetricFamily("vllm:request_success", text, labels=[label, "finished_reason"])
    cache = GaugeMetricFamily("vllm:cache_config_info", text, labels=[label, "block_size", "num_gpu_blocks"])
    for model, watched in models.items():
        for reason, outcomes in REASONS.items():
            ended.add_metric([model, reason], sum(watched.tally.outcomes[outcome] for outcome in outcomes))
        # The largest pool is that of layers that see everything, where there are some: windows need no more.
        blocks = max((group.total for group in watched.tally.groups), default=0)
        cache.add_metric([model, str(watched.block_tokens), str(blocks)], 1)
    yield from (ended, cache)
