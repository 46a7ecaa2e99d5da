"""A comparison as rows of text, for a terminal and for a page alike. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.api import ModelCard
from client.compare.bootstrap import Interval
from client.compare.paired import Difference
from client.compare.results import Findings, Results
from client.load.arrivals import describe
from client.load.statistics import Summary
from client.units import counted, milliseconds, plain

METRIC_NAMES = {
    "first_token": "time to first token",
    "per_token": "time per output token",
    "total": "time end to end",
}
_SHORT_NAMES = {"first_token": "first token", "per_token": "per token", "total": "end to end"}

_CARD_ROWS: tuple[tuple[str, Callable[[ModelCard], str]], ...] = (
    ("parameters", lambda card: counted(card.total_parameters)),
    ("active parameters", lambda card: counted(card.active_parameters)),
    ("cache bytes per token", lambda card: str(card.cache_bytes_per_token or "–")),
    ("attention", lambda card: card.attention or "–"),
    ("position", lambda card: card.position or "–"),
    ("feed-forward", lambda card: card.feed_forward or "–"),
)

_SUMMARY_ROWS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("answered / sent", lambda s: f"{s.completed} / {s.requests}"),
    ("generated tokens/s", lambda s: plain(s.output_rate)),
    ("time to first token p50, ms", lambda s: milliseconds(s.first_token.p50)),
    ("time to first token p95, ms", lambda s: milliseconds(s.first_token.p95)),
    ("inter-token p50, ms", lambda s: milliseconds(s.inter_token.p50)),
    ("inter-token p95, ms", lambda s: milliseconds(s.inter_token.p95)),
    ("end to end p50, ms", lambda s: milliseconds(s.total.p50)),
    ("end to end p95, ms", lambda s: milliseconds(s.total.p95)),
    ("routing entropy, 0 to 1", lambda s: plain(s.entropy)),
    ("routing imbalance, max / mean", lambda s: plain(s.imbalance)),
)

_OBJECTIVE_ROWS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("requests/s within the objective", lambda s: plain(s.goodput)),
)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: a title, the heads of its columns and its rows, the first cell of each its name."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def models_grid(results: Results) -> Grid:
    """What was compared."""
    rows = tuple((name, *(tell(card) for card in results.cards)) for name, tell in _CARD_ROWS)
    return Grid("Architectures", ("", *_names(results)), rows)


def level_grid(findings: Findings, level: int) -> Grid:
    """What each architecture did at one level, all rounds together."""
    results = findings.results
    summaries = [findings.summaries[i, level] for i in range(len(results.cards))]
    told = (*_SUMMARY_ROWS, *(_OBJECTIVE_ROWS if results.experiment.objective.asks else ()))
    rows = tuple((name, *(tell(one) for one in summaries)) for name, tell in told)
    return Grid(f"Load: {describe(results.experiment.levels[level])}", ("", *_names(results)), rows)


def difference_grid(findings: Findings, level: int) -> Grid:
    """Every architecture against the first at one level."""
    base = findings.results.experiment.baseline.name
    rows = tuple(_difference_row(name, one) for name, one in _against_baseline(findings, level))
    heads = ("", "time", "difference, ms", "ratio", "verdict")
    return Grid(f"Against {base}, request by request: medians with 95 % intervals", heads, rows)


def sentences(findings: Findings) -> tuple[str, ...]:
    """The findings in plain words, one for each architecture, metric and level."""
    experiment = findings.results.experiment
    return tuple(
        _sentence(name, experiment.baseline.name, describe(load), one)
        for level, load in enumerate(experiment.levels)
        for name, one in _against_baseline(findings, level)
    )


def _against_baseline(findings: Findings, level: int) -> list[tuple[str, Difference]]:
    names = _names(findings.results)
    return [(names[i], one) for i in range(1, len(names)) for one in findings.differences[i, level]]


def _difference_row(name: str, one: Difference) -> tuple[str, ...]:
    ms = f"{milliseconds(one.difference)} {_interval(one.difference_interval, 1e3)}"
    ratio = f"{plain(one.ratio)} {_interval(one.ratio_interval, 1.0)}"
    return (name, _SHORT_NAMES[one.metric], ms, ratio, one.verdict)


def _interval(interval: Interval, factor: float) -> str:
    return f"[{plain(interval.low * factor)}, {plain(interval.high * factor)}]"


def _sentence(name: str, base: str, load: str, one: Difference) -> str:
    metric = METRIC_NAMES[one.metric]
    if not one.pairs:
        return f"At {load}, nothing can be said of {metric}: no request was answered by both {name} and {base}."
    interval = f"95 % interval {plain(one.ratio_interval.low)} to {plain(one.ratio_interval.high)}"
    evidence = f"ratio {plain(one.ratio)}, {interval}, {one.pairs} pairs"
    return f"At {load}, {metric} of {name} against {base}: {one.verdict} ({evidence})."


def _names(results: Results) -> tuple[str, ...]:
    return tuple(architecture.name for architecture in results.experiment.architectures)
