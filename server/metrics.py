"""The Prometheus observer. The only file that imports prometheus_client.

Nothing here locks or looks up a label while a model runs: facts go into plain tallies, and a collector turns these into
series when somebody scrapes.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from model.roofline import Machine
from model.routing import entropy, imbalance
from server.engine.stats import GroupUse, RequestStats, StepStats
from server.models import ModelCard
from server.tally import OUTCOMES, Buckets, DoorTally, EngineTally, RoutingCounts

T = TypeVar("T")
Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily)

UNKNOWN = "unknown"  # the model label of calls that named no served model
MOST_EXPERTS = 4096  # of a model; above it, layers only


@dataclass(frozen=True, slots=True)
class Watched:
    """A served model as the metrics see it; `layers` has the block index and number of experts of every mixture."""

    card: ModelCard
    layers: tuple[tuple[int, int], ...]
    tally: EngineTally
    roofs: Machine | None = None


class PrometheusObserver(Collector):
    """Takes facts from engines, service and transports and gives them to a registry.

    Engines are heard from once they are declared: what a model does before, warming up, is nobody's request.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, version: str = "", most_expert_series: int = MOST_EXPERTS
    ) -> None:
        """`registry` None: one of its own."""
        self._registry = registry or CollectorRegistry()
        self._version = version
        self._most_expert_series = most_expert_series
        self._watched: dict[str, Watched] = {}
        self._doors = DoorTally()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def declare(self, card: ModelCard, layers: Iterable[tuple[int, int]], roofs: Machine | None = None) -> None:
        """Count this model from now on; `layers`: block index and number of experts of every mixture layer; `roofs`:
        what the machine can do for it, where that was measured."""
        shape = tuple(layers)
        watched = Watched(card, shape, EngineTally([experts for _, experts in shape], roofs), roofs)
        self._watched = {**self._watched, card.id: watched}  # a new one: a scrape may be reading the old one

    def forget(self, model: str) -> None:
        """Count this model no more: its series end."""
        self._watched = {name: watched for name, watched in self._watched.items() if name != model}

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """What a scrape gets, and its content type, in the format that `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def groups(self, model: str) -> tuple[GroupUse, ...]:
        """Blocks of each cache group after the last step; empty before the first."""
        return self._watched[model].tally.groups

    def routing(self, model: str) -> RoutingCounts:
        """How a model routed since it was declared."""
        return self._watched[model].tally.routing()

    # ------------------------------------------------------------------------------------------ facts come in

    def received(self, model: str, prompt_tokens: int) -> None:
        if model in self._watched:
            self._watched[model].tally.received += 1

    def stepped(self, stats: StepStats) -> None:
        if stats.model in self._watched:
            self._watched[stats.model].tally.step(stats)

    def finished(self, stats: RequestStats) -> None:
        if stats.model in self._watched:
            self._watched[stats.model].tally.finish(stats)

    def unserved(self, model: str | None, outcome: str) -> None:
        self._doors.unserved[model or UNKNOWN, str(outcome)] += 1

    def answered(self, transport: str, method: str, code: str) -> None:
        self._doors.answers[transport, method, code] += 1

    # ------------------------------------------------------------------------------------------ series go out

    def describe(self) -> Iterable[Metric]:
        return ()  # names are known without reading the tallies

    def collect(self) -> Iterator[Metric]:
        build = InfoMetricFamily("dyno_build", "What runs.")
        build.add_metric([], {"version": self._version, "python": platform.python_version()})
        yield build
        yield from self._models()
        yield from self._requests()
        yield from (self._histogram(*row) for row in HISTOGRAMS)
        yield from (self._numbers(CounterMetricFamily, *row) for row in COUNTERS)
        yield from (self._numbers(GaugeMetricFamily, *row) for row in GAUGES)
        yield from self._phases()
        yield from self._work()
        yield from self._blocks()
        yield from self._experts()

    def _models(self) -> Iterator[Metric]:
        words = ["model", "attention", "position", "feed_forward", "dtype"]
        info = GaugeMetricFamily("dyno_model_info", "Always 1: what a model is, to join with.", labels=words)
        parameters = GaugeMetricFamily("dyno_model_parameters", "Parameters.", labels=["model", "kind"])
        for name, watched in self._watched.items():
            card = watched.card
            info.add_metric([name, card.attention, card.position, card.feed_forward, card.dtype], 1)
            parameters.add_metric([name, "total"], card.total_parameters)
            parameters.add_metric([name, "active"], card.active_parameters)
        yield info
        yield parameters
        for name, text, read in CONSTANTS:
            family = GaugeMetricFamily(name, text, labels=["model"])
            for model, watched in self._watched.items():
                if (value := read(watched)) is not None:
                    family.add_metric([model], value)
            yield family

    def _requests(self) -> Iterator[Metric]:
        """Received is the sum of the outcomes, once nothing is in flight."""
        outcomes = Counter(self._doors.unserved)
        received = Counter[str]()
        for model, watched in self._watched.items():
            received[model] += watched.tally.received
            outcomes.update({(model, outcome): count for outcome, count in watched.tally.outcomes.items()})
        for (model, _), count in self._doors.unserved.items():
            received[model] += count
        yield self._received(received)
        family = CounterMetricFamily("dyno_requests", "Requests that ended.", labels=["model", "outcome"])
        for model in self._names():
            for outcome in OUTCOMES:
                family.add_metric([model, outcome], outcomes[model, outcome])
        yield family
        answers = CounterMetricFamily(
            "dyno_transport_requests", "Answers by code.", labels=["transport", "method", "code"]
        )
        for labels, count in list(self._doors.answers.items()):
            answers.add_metric(labels, count)
        yield answers

    def _received(self, received: Counter[str]) -> Metric:
        family = CounterMetricFamily("dyno_requests_received", "Requests that came in.", labels=["model"])
        for model in self._names():
            family.add_metric([model], received[model])
        return family

    def _names(self) -> tuple[str, ...]:
        return (*self._watched, UNKNOWN)

    def _histogram(self, name: str, text: str, read: Callable[[EngineTally], Buckets]) -> Metric:
        family = HistogramMetricFamily(name, text, labels=["model"])
        for model, watched in self._watched.items():
            tally = read(watched.tally)
            bounds = [*(f"{bound:g}" for bound in tally.bounds), "+Inf"]
            family.add_metric([model], list(zip(bounds, accumulate(tally.counts), strict=True)), tally.sum)
        return family

    def _numbers(self, kind: type[Family], name: str, text: str, read: Callable[[EngineTally], float]) -> Metric:
        family = kind(name, text, labels=["model"])
        for model, watched in self._watched.items():
            family.add_metric([model], read(watched.tally))
        return family

    def _phases(self) -> Iterator[Metric]:
        """Tokens by what they are; seconds by whether a step had any token of a prompt."""
        for name, text, read in PHASES:
            family = CounterMetricFamily(name, text, labels=["model", "phase"])
            for model, watched in self._watched.items():
                for phase, count in read(watched.tally).items():
                    family.add_metric([model, phase], count)
            yield family

    def _work(self) -> Iterator[Metric]:
        """Of what every request is told its part."""
        flops = CounterMetricFamily("dyno_flops", "Floating-point operations by part.", labels=["model", "part"])
        text = "Weights and cache read, cache written."
        moved = CounterMetricFamily("dyno_moved_bytes", text, labels=["model", "kind"])
        for model, watched in self._watched.items():
            tally = watched.tally
            for part, count in tally.flops.items():
                flops.add_metric([model, part], count)
            moved.add_metric([model, "weights_read"], tally.weight_bytes)
            moved.add_metric([model, "cache_read"], tally.cache_read)
            moved.add_metric([model, "cache_written"], tally.cache_written)
        yield from (flops, moved)

    def _blocks(self) -> Iterator[Metric]:
        """used + cached + empty = total; cached ones are free to be taken."""
        labels = ["model", "group"]
        used = GaugeMetricFamily("dyno_cache_blocks_used", "Blocks that requests hold.", labels=labels)
        cached = GaugeMetricFamily("dyno_cache_blocks_cached", "Free blocks with a prefix in them.", labels=labels)
        capacity = GaugeMetricFamily("dyno_cache_blocks_capacity", "Blocks there are.", labels=labels)
        for model, watched in self._watched.items():
            for index, group in enumerate(watched.tally.groups):
                used.add_metric([model, str(index)], group.used)
                cached.add_metric([model, str(index)], group.cached)
                capacity.add_metric([model, str(index)], group.total)
        yield from (used, cached, capacity)

    def _experts(self) -> Iterator[Metric]:
        """Every expert where that is few enough series, every layer always."""
        text = "Tokens each expert processed."
        each = CounterMetricFamily("dyno_expert_tokens", text, labels=["model", "layer", "expert"])
        layers = CounterMetricFamily("dyno_layer_expert_tokens", f"{text} Summed.", labels=["model", "layer"])
        even = GaugeMetricFamily("dyno_layer_load_entropy", "0 one expert, 1 even.", labels=["model", "layer"])
        tilt = GaugeMetricFamily("dyno_layer_load_imbalance", "Busiest over mean.", labels=["model", "layer"])
        text = "Experts that forward passes touched, each pass counted."
        touched = CounterMetricFamily("dyno_distinct_experts", text, labels=["model", "layer"])
        text = "How far the last chosen expert was ahead of the next, mean of all tokens."
        margin = GaugeMetricFamily("dyno_layer_gate_margin", text, labels=["model", "layer"])
        for model, watched in self._watched.items():
            few = sum(experts for _, experts in watched.layers) <= self._most_expert_series
            counts = watched.tally.routing()
            columns = zip(watched.layers, counts.loads, counts.distinct.tolist(), counts.margins.tolist(), strict=True)
            for (block, _), load, distinct, margins in columns:
                at = [model, str(block)]
                touched.add_metric(at, distinct)
                margin.add_metric(at, margins / max(1, counts.tokens))
                layers.add_metric(at, float(load.sum()))
                even.add_metric(at, float(entropy(load)))
                tilt.add_metric(at, float(imbalance(load)))
                for expert, tokens in enumerate(load.tolist() if few else ()):
                    each.add_metric([*at, str(expert)], tokens)
        yield from (each, layers, even, tilt, touched, margin)


Rows: TypeAlias = tuple[tuple[str, str, Callable[[EngineTally], T]], ...]

HISTOGRAMS: Rows[Buckets] = (
    ("dyno_time_to_first_token_seconds", "Arrival to first token.", lambda t: t.first_token),
    ("dyno_inter_token_seconds", "Every gap between successive tokens.", lambda t: t.inter_token),
    ("dyno_e2e_request_seconds", "Arrival to end, however it ended.", lambda t: t.whole),
    ("dyno_queue_seconds", "Arrival to first scheduled.", lambda t: t.queue),
    ("dyno_prefill_seconds", "First scheduled to first token.", lambda t: t.prefill_time),
    ("dyno_decode_seconds", "First token to last.", lambda t: t.decode_time),
    ("dyno_step_seconds", "One step, whole.", lambda t: t.step_time),
    ("dyno_step_forward_seconds", "The model's part of a step.", lambda t: t.forward_time),
    ("dyno_batch_tokens", "Tokens of a step.", lambda t: t.step_tokens),
    ("dyno_batch_rows", "Requests of a step.", lambda t: t.step_rows),
    ("dyno_request_routing_entropy", "Entropy of a request's expert load, mean of its layers.", lambda t: t.entropy),
    ("dyno_request_routing_imbalance", "Busiest expert over mean, mean of a request's layers.", lambda t: t.imbalance),
    ("dyno_request_gate_margin", "Gate margin of a request's tokens, mean of its layers.", lambda t: t.margin),
)
COUNTERS: Rows[float] = (
    ("dyno_prompt_tokens", "Tokens of the prompts of requests that ended.", lambda t: t.prompt),
    ("dyno_cached_tokens", "Prompt tokens found in the prefix cache.", lambda t: t.cached),
    ("dyno_generated_tokens", "Tokens drawn.", lambda t: t.generated),
    ("dyno_recomputed_tokens", "Tokens computed again after a preemption.", lambda t: t.recomputed),
    ("dyno_drafted_tokens", "Tokens guessed and computed to be confirmed.", lambda t: t.drafted),
    ("dyno_accepted_tokens", "Guessed tokens that were right and so took no step of their own.", lambda t: t.accepted),
    ("dyno_forward_passes", "Forward passes through the model.", lambda t: t.passes),
    ("dyno_preemptions", "Times a request lost its blocks.", lambda t: t.preemptions),
)
PHASES: Rows[dict[str, float]] = (
    ("dyno_computed_tokens", "Tokens through the model.", lambda t: {"prefill": t.prefill, "decode": t.decode}),
    ("dyno_forward_seconds", "Seconds inside the model.", lambda t: t.forward),
    ("dyno_forward_least_seconds", "The same steps at what this machine can do at best.", lambda t: t.least),
)
CONSTANTS: tuple[tuple[str, str, Callable[[Watched], float | None]], ...] = (
    ("dyno_model_cache_bytes_per_token", "Cache of one token.", lambda w: w.card.cache_bytes_per_token),
    ("dyno_model_context_tokens", "Longest prompt plus output.", lambda w: w.card.context),
    ("dyno_machine_read_bytes_per_second", "Best, over its size.", lambda w: w.roofs.bandwidth if w.roofs else None),
    ("dyno_machine_matrix_flops_per_second", "Best, in its type.", lambda w: w.roofs.flops if w.roofs else None),
)
GAUGES: Rows[float] = (
    ("dyno_requests_running", "Requests that have a place in the batch.", lambda t: t.running),
    ("dyno_requests_waiting", "Requests that wait for one.", lambda t: t.waiting),
)
