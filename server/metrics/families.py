"""From tallies to series. Every function gets the served models by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric

from model.routing import entropy, imbalance
from server.buckets import Buckets
from server.metrics.tables import CONSTANTS, COUNTERS, GAUGES, HISTOGRAMS, LABELLED, WINDOWS
from server.metrics.watched import Watched
from server.tally import EngineTally

Models: TypeAlias = Mapping[str, Watched]
Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily)


def of_models(models: Models, most_expert_series: int) -> Iterator[Metric]:
    """Everything that an engine tells."""
    yield from _cards(models)
    for name, text, buckets in HISTOGRAMS:
        yield histogram(name, text, models, buckets)
    for name, text, read in COUNTERS:
        yield numbers(CounterMetricFamily, name, text, models, read)
    for name, text, read in GAUGES:
        yield numbers(GaugeMetricFamily, name, text, models, read)
    for name, text, label, parts in LABELLED:
        yield _labelled(CounterMetricFamily, name, text, label, models, parts)
    text = "Requests that wait, by what the first of them waits for."
    yield _labelled(GaugeMetricFamily, "dyno_requests_waiting_for", text, "reason", models, lambda t: t.waiting_for)
    yield from _blocks(models)
    yield from _windows(models)
    yield from _experts(models, most_expert_series)


def fill(family: HistogramMetricFamily, labels: Sequence[str], tally: Buckets) -> None:
    """One histogram, its named values as exemplars: only OpenMetrics has a place for them."""
    witnesses = dict(tally.witnesses)
    bounds = [*(f"{bound:g}" for bound in tally.bounds), "+Inf"]
    rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for index, (bound, count) in enumerate(zip(bounds, accumulate(tally.counts), strict=True)):
        if index in witnesses:
            who, value, when = witnesses[index]
            rows.append((bound, count, Exemplar(who, value, when)))
        else:
            rows.append((bound, count))
    family.add_metric(labels, rows, tally.sum)


def _cards(models: Models) -> Iterator[Metric]:
    words = ["model", "attention", "position", "feed_forward", "dtype", "weights"]
    info = GaugeMetricFamily("dyno_model_info", "Always 1: what a model is, to join with.", labels=words)
    parameters = GaugeMetricFamily("dyno_model_parameters", "Parameters.", labels=["model", "kind"])
    for name, watched in models.items():
        card = watched.card
        info.add_metric([name, card.attention, card.position, card.feed_forward, card.dtype, card.weights], 1)
        parameters.add_metric([name, "total"], card.total_parameters)
        parameters.add_metric([name, "active"], card.active_parameters)
    yield info
    yield parameters
    for name, text, read in CONSTANTS:
        family = GaugeMetricFamily(name, text, labels=["model"])
        for model, watched in models.items():
            if (value := read(watched)) is not None:
                family.add_metric([model], value)
        yield family


def histogram(
    name: str, text: str, models: Models, read: Callable[[EngineTally], Buckets], *, label: str = "model"
) -> Metric:
    """One histogram of each model."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for model, watched in models.items():
        fill(family, [model], read(watched.tally))
    return family


def numbers(
    kind: type[Family],
    name: str,
    text: str,
    models: Models,
    read: Callable[[EngineTally], float],
    *,
    label: str = "model",
) -> Metric:
    """One number of each model."""
    family = kind(name, text, labels=[label])
    for model, watched in models.items():
        family.add_metric([model], read(watched.tally))
    return family


def _labelled(
    kind: type[Family],
    name: str,
    text: str,
    label: str,
    models: Models,
    read: Callable[[EngineTally], Mapping[str, float]],
) -> Metric:
    family = kind(name, text, labels=["model", label])
    for model, watched in models.items():
        for key, value in read(watched.tally).items():
            family.add_metric([model, key], value)
    return family


def _blocks(models: Models) -> Iterator[Metric]:
    """used + cached + empty = total; cached ones are free to be taken."""
    labels = ["model", "group"]
    used = GaugeMetricFamily("dyno_cache_blocks_used", "Blocks that requests hold.", labels=labels)
    cached = GaugeMetricFamily("dyno_cache_blocks_cached", "Free blocks with a prefix in them.", labels=labels)
    capacity = GaugeMetricFamily("dyno_cache_blocks_capacity", "Blocks there are.", labels=labels)
    for model, watched in models.items():
        for index, group in enumerate(watched.tally.groups):
            used.add_metric([model, str(index)], group.used)
            cached.add_metric([model, str(index)], group.cached)
            capacity.add_metric([model, str(index)], group.total)
    yield from (used, cached, capacity)


def _windows(models: Models) -> Iterator[Metric]:
    for name, text, read in WINDOWS:
        family = HistogramMetricFamily(name, text, labels=["model", "band", "phase"])
        for model, watched in models.items():
            for (band, phase), closed in watched.tally.windows.closed.items():
                fill(family, [model, band, phase], read(closed))
        yield family


def _experts(models: Models, most: int) -> Iterator[Metric]:
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
    for model, watched in models.items():
        few = sum(experts for _, experts in watched.layers) <= most
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
