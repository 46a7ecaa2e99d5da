"""A comparison as data for other programs: a number a line, in base units, with its interval if it has one. Pure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from io import StringIO
from math import nan

from client.api import ModelCard
from client.compare.judge.because import Split
from client.compare.judge.bits import Apart
from client.compare.judge.findings import QUANTILES, Findings
from client.compare.judge.paired import Difference
from client.compare.judge.predicted import peak_bytes
from client.compare.measure.accounts import Account
from client.compare.measure.quality import Quality
from client.compare.measure.searching import bounds, outcomes
from client.load.statistics import Summary


@dataclass(frozen=True, slots=True)
class Line:
    """One number. `level` is empty where a load has no part in it; `low` and `high` are NaN where there is no interval
    and infinite where nothing bounds it. `against` and `verdict` are of differences alone."""

    level: str
    architecture: str
    metric: str
    statistic: str
    value: float
    low: float = nan
    high: float = nan
    unit: str = ""  # s, bytes, 1/s, …; 1 for shares, ratios and other numbers without one
    against: str = ""
    verdict: str = ""


_CARD: tuple[tuple[str, str, str, Callable[[ModelCard], float]], ...] = (
    ("parameters", "total", "parameters", lambda c: c.total_parameters or nan),
    ("parameters", "active", "parameters", lambda c: c.active_parameters or nan),
    ("cache", "per token", "bytes", lambda c: c.cache_bytes_per_token or nan),
    ("state", "per request", "bytes", lambda c: c.state_bytes or nan),
)

_SUMMARY: tuple[tuple[str, str, str, Callable[[Summary], float]], ...] = (
    ("requests", "sent", "requests", lambda s: s.requests),
    ("requests", "answered", "requests", lambda s: s.completed),
    ("requests", "failed", "requests", lambda s: s.errors),
    ("requests", "cancelled", "requests", lambda s: s.cancelled),
    ("requests", "rate", "1/s", lambda s: s.request_rate),
    ("generated tokens", "rate", "tokens/s", lambda s: s.output_rate),
    ("lag", "p99", "s", lambda s: s.lag.p99),
    ("prefix cache", "share of prompt tokens", "1", lambda s: s.cached_share),
    ("routing", "entropy", "1", lambda s: s.entropy),
    ("routing", "imbalance", "1", lambda s: s.imbalance),
)

_ACCOUNT: tuple[tuple[str, str, str, Callable[[Account], float]], ...] = (
    ("forward pass", "tokens", "tokens", lambda a: a.batch),
    ("forward pass", "distinct experts per layer", "experts", lambda a: a.experts_a_pass),
    ("operations", "per token", "FLOP", lambda a: a.flops_per_token),
    ("memory traffic", "per token", "bytes", lambda a: a.bytes_per_token),
    ("model time", "share of the roofline", "1", lambda a: a.roofline_share),
    ("model time", "predicted at best", "s", lambda a: a.least_seconds or nan),
    ("model time", "share of the best bound by memory", "1", lambda a: a.memory_bound),
    ("model time", "measured", "s", lambda a: a.forward_seconds or nan),
)


def comma_separated(findings: Findings) -> str:
    """A table with a line for every number, its head the fields of `Line`. What is not known is an empty cell."""
    text = StringIO()
    out = csv.writer(text, lineterminator="\n")
    heads = [field.name for field in fields(Line)]
    out.writerow(heads)
    out.writerows([_cell(getattr(line, head)) for head in heads] for line in numbers(findings))
    return text.getvalue()


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if value != value else f"{value:.10g}" if isinstance(value, float) else str(value)


def numbers(findings: Findings) -> list[Line]:
    """Every number there is: of each architecture, then of each at every load."""
    results = findings.results
    found: list[Line] = []
    for i, name in enumerate(results.names):
        found += (replace(line, architecture=name) for line in _alone(findings, i))
    for level, load in enumerate(results.loads):
        for i, name in enumerate(results.names):
            found += (replace(line, level=load, architecture=name) for line in _loaded(findings, i, level))
    return [line for line in found if line.value == line.value]


def _line(metric: str, statistic: str, unit: str, value: float, low: float = nan, high: float = nan) -> Line:
    return Line("", "", metric, statistic, value, low, high, unit)


def _alone(findings: Findings, i: int) -> Iterator[Line]:
    """What does not depend on the load."""
    results = findings.results
    yield from (_line(metric, statistic, unit, read(results.cards[i])) for metric, statistic, unit, read in _CARD)
    yield _line("cache", "held by a request at its peak", "bytes", peak_bytes(results, i) or nan)
    if i < len(results.capacities) and results.capacities[i]:
        yield _line("cache", "capacity", "tokens", results.capacities[i])
    if i < len(results.qualities):
        yield from _quality(results.qualities[i])
        for one in findings.stretches:
            yield from (replace(line, against=results.names[0]) for line in _bits(one.name, one.apart[i]))
    for worth in findings.worths:
        if worth.architecture == i:
            yield _line("cost", "1000 tokens, at best", "s", worth.cost.seconds)
    if results.tried and i in results.asked:
        held, failed = bounds(outcomes(results.tried, i))
        yield _line("highest rate", "within the objective", "1/s", held, held, failed)


def _quality(quality: Quality | None) -> Iterator[Line]:
    if quality is None:
        return
    yield _line("bits per byte", "whole passages", "bits/byte", quality.bits_per_byte)
    for band in quality.bands:
        yield _line("bits per byte", f"tokens {band.start} to {band.stop}", "bits/byte", band.bits_per_byte)


def _bits(name: str, apart: Apart | None) -> Iterator[Line]:
    if apart is not None:
        found = _line("bits per byte", f"difference, {name}", "bits/byte", apart.difference)
        yield replace(found, low=apart.interval.low, high=apart.interval.high, verdict=apart.verdict)


def _loaded(findings: Findings, i: int, level: int) -> Iterator[Line]:
    summary, account = findings.summaries[i, level], findings.accounts[i, level]
    yield from (_line(metric, statistic, unit, read(summary)) for metric, statistic, unit, read in _SUMMARY)
    if findings.results.experiment.objective.asks:
        yield _line("goodput", "rate", "1/s", summary.goodput)
        yield _line("goodput", "share", "1", summary.goodput_share)
    for metric, found in findings.percentiles[i, level].items():
        for q, one in zip(QUANTILES, found, strict=True):
            yield _line(metric, f"p{q * 100:g}", "s", one.value, one.interval.low, one.interval.high)
    if account is not None:
        yield from (_line(metric, statistic, unit, read(account)) for metric, statistic, unit, read in _ACCOUNT)
    base = findings.results.experiment.baseline.name
    for difference in findings.differences.get((i, level), ()):
        yield from (replace(line, against=base, verdict=difference.verdict) for line in _difference(difference))
    yield from (replace(line, against=base) for line in _because(findings.because.get((i, level))))


def _difference(one: Difference) -> Iterator[Line]:
    apart, factor = one.difference_interval, one.ratio_interval
    yield _line(one.metric, "difference", "s", one.difference, apart.low, apart.high)
    yield _line(one.metric, "ratio", "1", one.ratio, factor.low, factor.high)
    yield _line(one.metric, "corrected p", "1", one.adjusted if one.pairs else nan)
    yield _line(one.metric, "smallest ratio to be seen", "1", one.smallest)
    kind = "requests" if one.of_requests else "rounds"
    yield _line(one.metric, "pairs" if one.of_requests else "rounds", kind, one.pairs)


def _because(split: Split | None) -> Iterator[Line]:
    if split is None:
        return
    for one in (split.whole, *split.parts):
        which = "mean difference" if one is split.whole else f"mean difference, {one.name}"
        yield _line("total", which, "s", one.seconds, one.interval.low, one.interval.high)
