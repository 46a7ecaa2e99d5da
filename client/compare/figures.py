"""From findings to plots, each with its sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from client.compare.plots import Point, Ratio, Series, bars, forest, lines
from client.compare.results import Findings, Results, values_of
from client.compare.searching import bounds, in_words, outcomes
from client.compare.words import METRIC_NAMES, SHORT_NAMES
from client.load.arrivals import describe
from client.load.lengths import most
from client.units import milliseconds, percent, plain

_GIBIBYTE = 2**30
DISTRIBUTIONS = ("first_token", "inter_token", "total")


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, what it is called and how it is read."""

    title: str
    sentence: str
    svg: str


def figures(findings: Findings) -> tuple[Figure, ...]:
    """Those that there is data for."""
    made = (
        _ratios(findings),
        *(_against_throughput(findings, metric) for metric in ("first_token", "inter_token")),
        _goodput(findings),
        _highest(findings.results),
        *(_shares(findings, metric, level) for level in _levels(findings) for metric in DISTRIBUTIONS),
        _blocks(findings),
        *_costs(findings),
        _routing(findings),
        _collisions(findings),
        _quality(findings.results),
        _reach(findings.results),
    )
    return tuple(one for one in made if one.svg)


def _names(results: Results) -> list[str]:
    return [one.name for one in results.experiment.architectures]


def _levels(findings: Findings) -> range:
    return range(len(findings.results.experiment.levels))


def _ratios(findings: Findings) -> Figure:
    names, base = _names(findings.results), findings.results.experiment.baseline.name
    loads = [describe(level) for level in findings.results.experiment.levels]
    rows = []
    for (i, level), found in findings.differences.items():
        for one in found:
            label = f"{names[i]}, {SHORT_NAMES[one.metric]}, {loads[level]}"
            ends = one.ratio_interval
            tip = f"{label}: {plain(one.ratio)} ({plain(ends.low)} to {plain(ends.high)}), {one.verdict}"
            rows.append(Ratio(label, i, one.ratio, ends.low, ends.high, tip))
    title = f"Times against {base}"
    said = "Left of the line is faster, right is slower; a line that crosses it shows no difference."
    return Figure(title, said, forest(title, f"time as a multiple of {base}'s, logarithmic", rows))


def _against_throughput(findings: Findings, metric: str) -> Figure:
    name = METRIC_NAMES[metric]
    series = []
    for i, architecture in enumerate(_names(findings.results)):
        points = []
        for level in _levels(findings):
            summary, median = findings.summaries[i, level], findings.percentiles[i, level][metric][0]
            load = describe(findings.results.experiment.levels[level])
            said = f"{plain(summary.output_rate)} tokens/s, {milliseconds(median.value)} ms"
            low, high = (1e3 * end for end in (median.interval.low, median.interval.high))
            points.append(Point(summary.output_rate, 1e3 * median.value, low, high, f"{architecture}, {load}: {said}"))
        series.append(Series(architecture, i, tuple(points)))
    title = f"Throughput and {name}"
    said = "One mark a level of load, its line the 95 % interval; lower and further right is better."
    return Figure(title, said, lines(title, "generated tokens a second", f"{name}, median, ms", series))


def _goodput(findings: Findings) -> Figure:
    if not findings.results.experiment.objective.asks:
        return Figure("", "", "")
    rows = []
    for (i, level), summary in findings.summaries.items():
        label = f"{_names(findings.results)[i]}, {describe(findings.results.experiment.levels[level])}"
        rows.append(Ratio(label, i, summary.goodput, tip=f"{label}: {plain(summary.goodput)} requests/s"))
    title = "Goodput"
    said = "Requests a second that were answered within the objective; longer is better."
    return Figure(title, said, bars(title, "requests a second within the objective", rows))


def _highest(results: Results) -> Figure:
    rows = []
    for i, name in enumerate(_names(results)):
        found = bounds(outcomes(results.tried, i))
        if results.tried:
            rows.append(Ratio(name, i, found[0], tip=f"{name}: {in_words(*found)}"))
    title = "Highest rate that meets the objective"
    said = f"Poisson arrivals, longer is better: {'; '.join(row.tip for row in rows)}."
    return Figure(title, said, bars(title, "requests a second", rows))


def _shares(findings: Findings, metric: str, level: int) -> Figure:
    """All percentiles at once: the share of values at or below each time."""
    results = findings.results
    series = []
    for i, name in enumerate(_names(results)):
        values = [v for m in results.of(i, level) for v in values_of(metric, m.run.records)]
        if not values:
            continue
        places = np.linspace(0, 1, 61)
        times = 1e3 * np.quantile(values, places)
        # One request out of hundreds must not decide how wide the plot is.
        widest = 1e3 * float(np.quantile(values, 0.995))
        line = tuple(Point(float(t), float(100 * q)) for t, q in zip(times, places, strict=True) if t <= widest)
        series.append(Series(name, i, line, marks=False))
    load, word = describe(results.experiment.levels[level]), METRIC_NAMES[metric]
    said = "How many per cent took at most so long: every percentile in one line; further left is faster."
    svg = lines(f"{word} at {load}", "ms", "per cent", series, top=100)
    return Figure(f"{word[0].upper()}{word[1:]}, {load}", said, svg)


def _blocks(findings: Findings) -> Figure:
    names, level = _names(findings.results), 0
    series = [
        Series(name, i, tuple(Point(n, 1e3 * m, tip=f"{name}, round {n}: {milliseconds(m)} ms") for n, m in medians))
        for i, name in enumerate(names)
        if (medians := list(enumerate(findings.drifts[i, level].medians, start=1)))
    ]
    title = f"Rounds at {describe(findings.results.experiment.levels[level])}"
    said = "The same architecture, round by round: level lines say that the machine stayed the same."
    svg = lines(title, "round", "end to end, median, ms", series) if len(findings.results.measured) > 2 else ""
    return Figure(title, said, svg)


def _card_bars(results: Results, title: str, unit: str, said: str, read: Callable[[int], float]) -> Figure:
    rows = [Ratio(name, i, read(i), tip=f"{name}: {plain(read(i))} {unit}") for i, name in enumerate(_names(results))]
    return Figure(title, said, bars(title, unit, rows))


def _costs(findings: Findings) -> tuple[Figure, ...]:
    results = findings.results
    workload, cards = results.experiment.workload, results.cards

    def held(i: int) -> float:
        """Traces have lengths of their own, and some servers do not tell what a token keeps."""
        if results.experiment.trace or not cards[i].cache_bytes_per_token:
            return 0.0
        tokens = most(workload.prompt_tokens or 1) + most(workload.output_tokens)
        return _GIBIBYTE / (cards[i].cache_bytes_per_token * tokens)

    def operations(i: int) -> float:
        records = [r for m in results.measured if m.cell.architecture == i for r in m.run.records]
        told = [r.facts.compute for r in records if r.facts is not None and r.facts.compute is not None]
        tokens = sum(one.tokens for one in told)
        return sum(one.flops.total for one in told) / tokens if tokens else 0.0

    return (
        _card_bars(
            results, "Cache", "bytes a token", "What one token keeps in memory; less lets more requests run at once.",
            lambda i: float(cards[i].cache_bytes_per_token),
        ),
        _card_bars(
            results, "Concurrency", "requests in 1 GiB of cache",
            "Requests at their longest that fit 1 GiB of cache, if every token is kept and none shared.", held,
        ),
        _card_bars(
            results, "Operations", "FLOP a token", "Floating-point operations of the model for one token, as served.",
            operations,
        ),
        _roofline(findings),
    )  # fmt: skip


def _roofline(findings: Findings) -> Figure:
    names, rows = _names(findings.results), []
    for (i, level), account in findings.accounts.items():
        if account is not None:
            label = f"{names[i]}, {describe(findings.results.experiment.levels[level])}"
            share = account.roofline_share
            rows.append(Ratio(label, i, 100 * share, tip=f"{label}: {percent(share)} of the roofline"))
    title = "Share of the roofline"
    said = "The least time in which this machine could have done the same steps, over the time they took: predicted "
    said += "against measured."
    return Figure(title, said, bars(title, "per cent", rows))


def _routing(findings: Findings) -> Figure:
    names, rows = _names(findings.results), []
    for (i, level), summary in findings.summaries.items():
        label = f"{names[i]}, {describe(findings.results.experiment.levels[level])}"
        tip = f"{label}: busiest expert {plain(summary.imbalance)} times the mean, entropy {plain(summary.entropy)}"
        rows.append(Ratio(label, i, summary.imbalance, tip=tip))
    title = "Routing"
    said = "How much busier the busiest expert of a layer was than the mean, a request at a time; 1 is even."
    return Figure(title, said, bars(title, "busiest expert over the mean", rows))


def _collisions(findings: Findings) -> Figure:
    series = []
    for i, name in enumerate(_names(findings.results)):
        told = sorted(
            (account.batch, account.experts_a_pass)
            for (architecture, _), account in findings.accounts.items()
            if architecture == i and account is not None and account.experts_a_pass == account.experts_a_pass
        )
        points = (Point(b, e, tip=f"{name}: {plain(e)} experts a layer for {plain(b)} tokens a pass") for b, e in told)
        series.append(Series(name, i, tuple(points)))
    title = "Experts a pass touches"
    said = "Every expert touched is read from memory: the more tokens share a pass, the more of them are."
    return Figure(title, said, lines(title, "tokens a forward pass", "distinct experts a layer", series))


def _quality(results: Results) -> Figure:
    rows = [
        Ratio(name, i, one.bits_per_byte, tip=f"{name}: {one.bits_per_byte:.4f} bits per byte of {one.bytes} bytes")
        for i, (name, one) in enumerate(zip(_names(results), results.qualities, strict=False))
        if one is not None
    ]
    title = "Quality"
    said = "Bits per byte on held text that no model of the zoo was trained on; less is better."
    return Figure(title, said, bars(title, "bits per byte", rows))


def _reach(results: Results) -> Figure:
    """Quality by position, a mark at the end of each stretch."""
    series = []
    for i, (name, one) in enumerate(zip(_names(results), results.qualities, strict=False)):
        bands = () if one is None else one.bands
        tips = (f"{name}, tokens {b.start} to {b.stop}: {b.bits_per_byte:.4f} bits per byte" for b in bands)
        points = (Point(b.stop, b.bits_per_byte, tip=tip) for b, tip in zip(bands, tips, strict=True))
        series.append(Series(name, i, tuple(points)))
    title = "Quality by position"
    said = "Bits per byte of the tokens between a mark and the one before; a line that rises has left what it learned."
    return Figure(title, said, lines(title, "position in the text, tokens", "bits per byte", series))
