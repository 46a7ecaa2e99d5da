"""Plots of how long requests took and how many were served."""

from __future__ import annotations

import numpy as np

from client.compare.judge.because import Split
from client.compare.judge.findings import QUANTILES, Findings, Percentile, values_of
from client.compare.judge.paired import Difference
from client.compare.judge.words import METRIC_NAMES, PART_NAMES
from client.compare.measure.results import Results
from client.compare.measure.searching import bounds, in_words, outcomes
from client.compare.tell.figure import Figure, by_load
from client.compare.tell.plots import Point, Series, lines
from client.compare.tell.rows import Group, Row, bars, forest, made_of, reach
from client.load.arrivals import Closed
from client.units import milliseconds, plain

DISTRIBUTIONS = ("first_token", "inter_token", "total")
_TOLD = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)  # marks of a distribution; the line itself is finer
_BENDS = 61
_END = 0.995  # of a distribution's line
_LONG_TAIL = 20  # times the median: on an even axis the rest would be one upright line


def ratios(findings: Findings) -> list[Figure]:
    """A forest a level, all on the same axis."""
    experiment = findings.results.experiment
    forests = [_ratios_at(findings, level) for level in range(len(experiment.levels))]
    far = reach([row for groups in forests for group in groups for row in group.rows])
    said = "Left of the line is faster, right is slower, each with its 95 % interval; a hollow mark is no difference "
    said += "shown, an arrow goes on beyond the axis."
    part = f"Times against {experiment.baseline.name}"
    return [
        Figure(part, f"At {load}", said, forest(f"{part}, {load}", "times as long, logarithmic", groups, far))
        for load, groups in zip(findings.results.loads, forests, strict=True)
    ]


def _ratios_at(findings: Findings, level: int) -> list[Group]:
    return [
        Group(
            METRIC_NAMES[metric],
            tuple(
                _ratio(findings, i, level, one)
                for (i, at), found in findings.differences.items()
                for one in found
                if at == level and one.metric == metric
            ),
        )
        for metric in METRIC_NAMES
    ]


def _ratio(findings: Findings, i: int, level: int, one: Difference) -> Row:
    name, load, ends = findings.results.names[i], findings.results.loads[level], one.ratio_interval
    tip = f"{name}, {METRIC_NAMES[one.metric]}, {load}: {plain(one.ratio)} times as long "
    tip += f"({plain(ends.low)} to {plain(ends.high)}), {one.said}"
    return Row(name, i, one.ratio, ends.low, ends.high, plain(one.ratio), tip, one.told_apart)


def reasons(findings: Findings) -> list[Figure]:
    """What the differences end to end are made of, a figure a level."""
    return [_reasons_at(findings, level) for level in range(len(findings.results.loads))]


def _reasons_at(findings: Findings, level: int) -> Figure:
    results, load = findings.results, findings.results.loads[level]
    told = [(i, one) for (i, at), one in findings.because.items() if at == level and one is not None]
    rows = tuple(_reason(results.names[i], i, one) for i, one in told)
    said = "The mean difference end to end, and the parts of a request's time that it is made of: right of the line is "
    said += "longer, left is shorter, the upright mark is their sum."
    part = f"Where the difference from {results.experiment.baseline.name} comes from"
    svg = made_of(f"{part}, {load}", "ms a request", [Group("", rows)], tuple(PART_NAMES.values()))
    return Figure(part, f"By part, {load}", said, svg)


def _reason(name: str, i: int, one: Split) -> Row:
    tips = (
        f"{PART_NAMES.get(part.name, 'end to end')} {milliseconds(part.seconds)} ms "
        f"({milliseconds(part.interval.low)} to {milliseconds(part.interval.high)})"
        for part in (one.whole, *one.parts)
    )
    pieces, whole = tuple(1e3 * part.seconds for part in one.parts), 1e3 * one.whole.seconds
    return Row(name, i, whole, told=plain(whole), tip=f"{name}: {', '.join(tips)}", parts=pieces)


def throughput(findings: Findings) -> list[Figure]:
    """Times against throughput, the highest rate, goodput."""
    return [
        *(_against_throughput(findings, metric) for metric in ("first_token", "inter_token")),
        _highest(findings.results),
        _goodput(findings),
    ]


def _against_throughput(findings: Findings, metric: str) -> Figure:
    name = METRIC_NAMES[metric]
    series = []
    for i in range(len(findings.results.names)):
        upper = tuple(_served(findings, i, level, metric, 0.95) for level in range(len(findings.results.loads)))
        median = tuple(_served(findings, i, level, metric, 0.5) for level in range(len(findings.results.loads)))
        series += [Series(i, upper, "light"), Series(i, median)]
    title = f"Throughput and {name}"
    said = "Full marks and lines are medians with their 95 % interval, hollow and dashed the 95th percentile, one mark "
    closed = all(isinstance(one, Closed) for one in findings.results.experiment.levels)
    said += (
        f"a level of load; lower {'and further right is better' if closed else 'is better, right is what was offered'}."
    )
    return Figure("Throughput", title, said, lines(title, "generated tokens a second", f"{name}, ms", series))


def _served(findings: Findings, i: int, level: int, metric: str, q: float) -> Point:
    rate = findings.summaries[i, level].output_rate
    found: Percentile = findings.percentiles[i, level][metric][QUANTILES.index(q)]
    low, high = 1e3 * found.interval.low, 1e3 * found.interval.high
    tip = f"{findings.results.names[i]}, {findings.results.loads[level]}: {plain(rate)} tokens/s, "
    tip += (
        f"{'median' if q == 0.5 else '95th percentile'} {milliseconds(found.value)} ms ({plain(low)} to {plain(high)})"
    )
    # Only medians have whiskers: two on one line could not be told apart.
    return Point(rate, 1e3 * found.value, low, high, tip) if q == 0.5 else Point(rate, 1e3 * found.value, tip=tip)


def _goodput(findings: Findings) -> Figure:
    def row(i: int, level: int) -> Row:
        value = findings.summaries[i, level].goodput
        tip = f"{findings.results.names[i]}, {findings.results.loads[level]}: {plain(value)} requests/s"
        return Row(findings.results.names[i], i, value, told=plain(value), tip=tip)

    title = "Goodput"
    said = "Requests a second that were answered within the objective; longer is better."
    groups = by_load(findings, row) if findings.results.experiment.objective.asks else []
    return Figure("Throughput", title, said, bars(title, "requests a second within the objective", groups))


def _highest(results: Results) -> Figure:
    rows = []
    for i, name in results.asked.items():
        found = bounds(outcomes(results.tried, i))
        rows.append(Row(name, i, found[0], told=plain(found[0]), tip=f"{name}: {in_words(*found)}"))
    title = "Highest rate that meets the objective"
    said = f"Poisson arrivals, longer is better: {'; '.join(row.tip for row in rows)}."
    groups = [Group("", tuple(rows))] if results.tried else []
    return Figure("Throughput", title, said, bars(title, "requests a second", groups))


def distributions(findings: Findings) -> list[Figure]:
    """How each of the times is distributed, a figure for each of them and each level."""
    levels = range(len(findings.results.loads))
    return [_shares(findings, metric, level) for level in levels for metric in DISTRIBUTIONS]


def _shares(findings: Findings, metric: str, level: int) -> Figure:
    """All percentiles at once: the share of values at or below each time."""
    results, load, word = findings.results, findings.results.loads[level], METRIC_NAMES[metric]
    series, log = [], False
    for i, name in enumerate(results.names):
        values = [v for m in results.of(i, level) for v in values_of(metric, m.run.records)]
        if values:
            series.append(Series(i, _line(f"{name}, {word}, {load}", values), "dense"))
            log |= bool(np.quantile(values, _END) > _LONG_TAIL * np.median(values))
    said = "How many per cent took at most so long: every percentile in one line; further left is faster."
    said += f" The axis is logarithmic: the slowest took more than {_LONG_TAIL} times the median." if log else ""
    label = "ms, logarithmic" if log else "ms"
    svg = lines(f"{word} at {load}", label, "per cent", series, top=100, log=log)
    return Figure("Distributions", f"{word[0].upper()}{word[1:]}, {load}", said, svg)


def _line(name: str, values: list[float]) -> tuple[Point, ...]:
    """Up to the 99.5th percentile: one request out of hundreds must not decide how wide the plot is."""
    bends = [(q, "") for q in np.linspace(0, _END, _BENDS)]
    told = [(q, f"{name}: {q:.0%} took at most {milliseconds(float(np.quantile(values, q)))} ms") for q in _TOLD]
    places = sorted(bends + told)
    times = 1e3 * np.quantile(values, [q for q, _ in places])
    return tuple(Point(float(t), float(100 * q), tip=tip) for t, (q, tip) in zip(times, places, strict=True))


def rounds(findings: Findings) -> list[Figure]:
    """Round by round, how long the requests of each architecture took, a figure a level."""
    return [_blocks(findings, level) for level in range(len(findings.results.loads))]


def _blocks(findings: Findings, level: int) -> Figure:
    load = findings.results.loads[level]
    series = [
        Series(i, tuple(Point(n, 1e3 * m, tip=f"{name}, {load}, round {n}: {milliseconds(m)} ms") for n, m in medians))
        for i, name in enumerate(findings.results.names)
        if (medians := list(enumerate(findings.drifts[i, level].medians, start=1)))
    ]
    said = "The same architecture, round by round: level lines say that the machine stayed the same."
    several = any(len(one.points) > 1 for one in series)
    svg = lines(f"Rounds at {load}", "round", "end to end, median, ms", series, whole=True) if several else ""
    return Figure("Rounds", f"Rounds at {load}", said, svg)
