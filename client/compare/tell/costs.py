"""Plots of what an architecture takes (memory, operations, experts) and what it is worth (bits per byte)."""

from __future__ import annotations

from math import isfinite, nan

from client.compare.judge.bits import Apart
from client.compare.judge.findings import Findings
from client.compare.judge.predicted import flops, peak_bytes
from client.compare.measure.quality import Band, Quality
from client.compare.measure.results import Results
from client.compare.tell.figure import Figure, by_load
from client.compare.tell.plots import Point, Series, lines
from client.compare.tell.rows import Group, Row, bars, dots
from client.units import counted, percent, plain

_GIBIBYTE = 2**30


def costs(findings: Findings) -> list[Figure]:
    """Plots of what the cards, the requests' own facts and the servers' counters tell."""
    return [
        _cache(findings.results),
        _concurrency(findings.results),
        _operations(findings.results),
        _collisions(findings),
        _roofline(findings),
        _routing(findings),
    ]


def qualities(findings: Findings) -> list[Figure]:
    """Plots of bits per byte over held text, whole and by position, and for what it costs."""
    return [_quality(findings), _worth(findings), _reach(findings.results)]


def _each(results: Results, title: str, unit: str, said: str, values: list[float]) -> Figure:
    """A bar an architecture, of a number that does not depend on the load; 0 is not told."""
    rows = (
        Row(name, i, value or nan, told=_sized(value), tip=f"{name}: {plain(value)} {unit}")
        for i, (name, value) in enumerate(zip(results.names, values, strict=True))
    )
    return Figure("Cost", title, said, bars(title, unit, [Group("", tuple(rows))]))


def _sized(value: float) -> str:
    return counted(round(value)) if value >= 1e4 else plain(value)


def _cache(results: Results) -> Figure:
    said = "What one token keeps in memory as long as every layer sees it; behind a window it is let go of."
    if any(card.state_bytes for card in results.cards):
        said += " States of a fixed size, which a request carries whatever its length, are not in it."
    return _each(results, "Cache", "bytes a token", said, [float(card.cache_bytes_per_token) for card in results.cards])


def _concurrency(results: Results) -> Figure:
    fit = [_GIBIBYTE / one if (one := peak_bytes(results, i)) else 0.0 for i in range(len(results.names))]
    said = "Requests that fit 1 GiB of cache: as these were measured, all at their peak and with nothing shared."
    return _each(results, "Concurrency", "requests in 1 GiB of cache", said, fit)


def _operations(results: Results) -> Figure:
    said = "Floating-point operations of the model for one token, as served."
    return _each(results, "Operations", "FLOP a token", said, [flops(results, i) for i in range(len(results.names))])


def _roofline(findings: Findings) -> Figure:
    def row(i: int, level: int) -> Row | None:
        account = findings.accounts[i, level]
        if account is None:
            return None
        share, name = account.roofline_share, findings.results.names[i]
        tip = f"{name}, {findings.results.loads[level]}: {percent(share)} of the roofline"
        return Row(name, i, 100 * share, told=percent(share), tip=tip)

    title = "Share of the roofline"
    said = "The least time in which this machine could have done the same steps, over the time they took: predicted "
    said += "against measured."
    return Figure("Cost", title, said, bars(title, "per cent", by_load(findings, row)))


def _routing(findings: Findings) -> Figure:
    def row(i: int, level: int) -> Row:
        summary, name = findings.summaries[i, level], findings.results.names[i]
        tip = f"{name}, {findings.results.loads[level]}: busiest expert {plain(summary.imbalance)} times the mean, "
        tip += f"entropy {plain(summary.entropy)}"
        return Row(name, i, summary.imbalance, told=plain(summary.imbalance), tip=tip)

    title = "Routing"
    said = "How much busier the busiest expert of a layer was than the mean, a request at a time; 1 is even."
    return Figure("Cost", title, said, bars(title, "busiest expert over the mean", by_load(findings, row)))


def _collisions(findings: Findings) -> Figure:
    series = []
    for i, name in enumerate(findings.results.names):
        told = sorted(
            (account.batch, account.experts_a_pass)
            for (architecture, _), account in findings.accounts.items()
            if architecture == i and account is not None and isfinite(account.experts_a_pass)
        )
        points = (Point(b, e, tip=f"{name}: {plain(e)} experts a layer for {plain(b)} tokens a pass") for b, e in told)
        series.append(Series(i, tuple(points)))
    title = "Experts a pass touches"
    said = "Every expert touched is read from memory: the more tokens share a pass, the more of them are."
    return Figure("Cost", title, said, lines(title, "tokens a forward pass", "distinct experts a layer", series))


def _quality(findings: Findings) -> Figure:
    results, whole = findings.results, findings.stretches[:1]
    rows = tuple(
        _judged(name, i, judged, apart, results.names[0])
        for some in whole
        for i, (name, judged, apart) in enumerate(zip(results.names, some.judged, some.apart, strict=False))
        if judged is not None
    )
    title = "Bits per byte"
    said = "On held text that no model of the zoo was trained on; further left is better. Intervals are of the "
    said += f"difference from {results.names[0]} on the same passages; a hollow mark is no difference shown. The axis "
    said += "does not begin at 0."
    return Figure("Quality", title, said, dots(title, "bits per byte", [Group("", rows)]))


def _judged(name: str, i: int, judged: Quality | Band, apart: Apart | None, baseline: str) -> Row:
    """The row of one architecture; its interval is that of the difference, about its own place."""
    value = judged.bits_per_byte
    tip = f"{name}: {value:.4f} bits per byte"
    if apart is None:
        return Row(name, i, value, told=f"{value:.4f}", tip=tip)
    low, high = (value - apart.difference + end for end in (apart.interval.low, apart.interval.high))
    tip += f"; against {baseline} {apart}, {apart.said}"
    return Row(name, i, value, low, high, f"{value:.4f}", tip, apart.verdict.sure)


def _worth(findings: Findings) -> Figure:
    results, series = findings.results, []
    for one in findings.worths:
        name, spent = results.names[one.architecture], one.cost.seconds
        tip = f"{name}, {results.loads[one.cost.level]}: {plain(spent)} s for 1,000 tokens, "
        tip += f"{one.bits_per_byte:.4f} bits per byte"
        point = Point(spent, one.bits_per_byte, tip=tip)
        if one.bits and one.time:
            ends, times = one.bits.interval, one.time.ratio_interval
            low, high = (one.bits_per_byte - one.bits.difference + end for end in (ends.low, ends.high))
            left, right = (spent / one.time.ratio * end for end in (times.low, times.high))
            point = Point(spent, one.bits_per_byte, low, high, tip, left, right)
        series.append(Series(one.architecture, (point,)))
    title, within = "Quality for cost", " within the objective" if results.experiment.objective.asks else ""
    said = f"Time for 1,000 tokens{within}, each at the load at which it takes least; lower and further left is "
    said += f"better. Intervals are of the difference from {results.names[0]}. The upright axis does not begin at 0."
    svg = lines(title, "seconds for 1,000 tokens", "bits per byte", series, zero=False)
    return Figure("Quality", title, said, svg)


def _reach(results: Results) -> Figure:
    """Quality by position, a mark at the end of each stretch."""
    series = []
    for i, (name, one) in enumerate(zip(results.names, results.qualities, strict=False)):
        bands = () if one is None else one.bands
        tips = (f"{name}, tokens {b.start} to {b.stop}: {b.bits_per_byte:.4f} bits per byte" for b in bands)
        points = (Point(b.stop, b.bits_per_byte, tip=tip) for b, tip in zip(bands, tips, strict=True))
        series.append(Series(i, tuple(points)))
    title = "Quality by position"
    said = "Bits per byte of the tokens between a mark and the one before; a line that rises has left what it learned. "
    said += "The upright axis does not begin at 0."
    svg = lines(title, "position in the text, tokens", "bits per byte", series, zero=False)
    return Figure("Quality", title, said, svg)
