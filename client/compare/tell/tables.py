"""A comparison as rows of text, for a terminal and for a page alike. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan

from client.api import ModelCard
from client.compare.judge.because import Part
from client.compare.judge.bits import Stretch
from client.compare.judge.bootstrap import Interval
from client.compare.judge.exactness import identical
from client.compare.judge.findings import QUANTILES, Findings, Percentile
from client.compare.judge.paired import Difference
from client.compare.judge.predicted import costs
from client.compare.judge.words import PART_NAMES, SHORT_NAMES
from client.compare.measure.accounts import Account
from client.compare.measure.results import Results
from client.compare.measure.searching import told
from client.compare.plan.schedule import SURE_ROUNDS
from client.compare.tell.makeup import differing
from client.load.arrivals import Closed
from client.load.statistics import Summary
from client.units import counted, milliseconds, percent, plain

_CARD_ROWS: tuple[tuple[str, Callable[[ModelCard], str]], ...] = (
    ("parameters", lambda card: counted(card.total_parameters)),
    ("active parameters", lambda card: counted(card.active_parameters)),
    ("cache bytes per token", lambda card: str(card.cache_bytes_per_token or "–")),
    ("state bytes per request", lambda card: str(card.state_bytes or "–")),
    ("attention", lambda card: card.attention or "–"),
    ("position", lambda card: card.position or "–"),
    ("feed-forward", lambda card: card.feed_forward or "–"),
)

_RATE, _OFFERED = "generated tokens/s", "generated tokens/s, served at this rate"

_SUMMARY_ROWS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("answered / sent", lambda s: f"{s.completed} / {s.requests}" + (f", {s.cancelled} left" if s.cancelled else "")),
    (_RATE, lambda s: plain(s.output_rate)),
    ("sent late p99, ms", lambda s: milliseconds(s.lag.p99)),
    ("prompt tokens from the prefix cache", lambda s: percent(s.cached_share)),
    ("routing entropy, 0 to 1", lambda s: plain(s.entropy)),
    ("routing imbalance, max / mean", lambda s: plain(s.imbalance)),
)

_ACCOUNT_ROWS: tuple[tuple[str, Callable[[Account], str]], ...] = (
    ("tokens a forward pass", lambda a: plain(a.batch)),
    ("FLOP a token", lambda a: _whole(a.flops_per_token)),
    ("bytes moved a token", lambda a: _whole(a.bytes_per_token)),
    ("share of the roofline", lambda a: percent(a.roofline_share)),
    ("predicted at best, s", lambda a: plain(a.least_seconds or None)),
    ("of it bound by memory", lambda a: percent(a.memory_bound)),
    ("measured in the model, s", lambda a: plain(a.forward_seconds or None)),
    ("distinct experts a pass and layer", lambda a: plain(a.experts_a_pass)),
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
    words: bool = False  # cells are text, not numbers


def models_grid(findings: Findings) -> Grid:
    """What was compared."""
    results = findings.results
    rows = [(name, *(tell(card) for card in results.cards)) for name, tell in _CARD_ROWS]
    if any(results.capacities):
        rows.append(("tokens that the cache holds", *(counted(n) for n in results.capacities)))
    rows += [row for one in findings.stretches for row in _quality_rows(one, results.names[0])]
    if results.tried:
        rates = (told(results.tried, i) for i in range(len(results.names)))
        rows.append(("highest rate within the objective", *rates))
    return Grid("Architectures", ("", *results.names), tuple(rows))


def makeup_grid(findings: Findings) -> Grid:
    """What differs between them besides numbers; without rows where nothing does."""
    heads = ("", *findings.results.names)
    return Grid("What differs between the architectures", heads, differing(findings.results), words=True)


def _quality_rows(one: Stretch, baseline: str) -> list[tuple[str, ...]]:
    """What each came to, and how far it is from the first where texts were kept apart."""
    rows = [(f"bits per byte, {one.name}", *(f"{q.bits_per_byte:.4f}" if q else "–" for q in one.judged))]
    if any(one.apart):
        rows.append((f"against {baseline}, on the same texts", *(str(apart or "–") for apart in one.apart)))
        rows.append(("verdict", *(apart.said if apart else "–" for apart in one.apart)))
    return rows


def level_grid(findings: Findings, level: int) -> Grid:
    """What each architecture did at one level, all rounds together."""
    results, arrivals = findings.results, findings.results.experiment.levels[level]
    summaries = [findings.summaries[i, level] for i in range(len(results.cards))]
    called = {} if isinstance(arrivals, Closed) else {_RATE: _OFFERED}
    told = (*_SUMMARY_ROWS, *(_OBJECTIVE_ROWS if results.experiment.objective.asks else ()))
    rows = [(called.get(name, name), *(tell(one) for one in summaries)) for name, tell in told]
    rows += [
        row for metric in ("first_token", "inter_token", "total") for row in _percentile_rows(findings, level, metric)
    ]
    rows.append(
        (f"answers the same as {results.names[0]}'s", *(_same(results, i, level) for i in range(len(summaries))))
    )
    rows += _predictions(findings, level)
    accounts = [findings.accounts[i, level] for i in range(len(results.cards))]
    rows += [(name, *(_told(one, tell) for one in accounts)) for name, tell in _ACCOUNT_ROWS if any(accounts)]
    return Grid(f"Load: {results.loads[level]}", ("", *results.names), tuple(rows))


def _same(results: Results, architecture: int, level: int) -> str:
    same, told = identical(results, architecture, level)
    return f"{same} of {told}" if architecture and told else "–"


def _predictions(findings: Findings, level: int) -> list[tuple[str, ...]]:
    """Rows of what a token costs: as the cards predict it, where they do, and as the requests told of themselves."""
    told = [costs(findings.results, i, level) for i in range(len(findings.results.cards))]
    rows = (
        ("FLOP a token, predicted from the card", tuple(one.flops for one in told)),
        ("FLOP a token, as the requests tell", tuple(one.flops_told for one in told)),
        ("cache bytes a token, predicted from the card", tuple(one.cache for one in told)),
        ("cache bytes a token at a request's peak", tuple(one.cache_told for one in told)),
    )
    return [(name, *(counted(round(n)) for n in numbers)) for name, numbers in rows if any(numbers)]


def _percentile_rows(findings: Findings, level: int, metric: str) -> list[tuple[str, ...]]:
    names = range(len(findings.results.cards))
    return [
        (
            f"{SHORT_NAMES[metric]} p{q * 100:g}, ms",
            *(_percentile(findings.percentiles[i, level][metric][k]) for i in names),
        )
        for k, q in enumerate(QUANTILES)
    ]


def _percentile(one: Percentile) -> str:
    return f"{milliseconds(one.value)} {_interval(one.interval, 1e3)}"


def _whole(number: float) -> str:
    return "–" if isnan(number) else counted(round(number))


def _told(account: Account | None, tell: Callable[[Account], str]) -> str:
    return "–" if account is None else tell(account)


def difference_grid(findings: Findings, level: int) -> Grid:
    """Every architecture against the first at one level."""
    results = findings.results
    title = f"Against {results.names[0]} at {results.loads[level]}"
    rows = tuple(difference_row(name, one) for name, one in findings.against_baseline(level))
    heads = ("", "time", "difference, ms", "ratio", "p, corrected", "could have seen", "verdict")
    return Grid(f"{title}: medians over pairs, of tails and throughput means over rounds; 95 % intervals", heads, rows)


def because_grid(findings: Findings, level: int) -> Grid:
    """What the differences end to end at one level are made of; without rows where servers do not tell."""
    results = findings.results
    told = [(name, findings.because[i, level]) for i, name in enumerate(results.names) if i]
    rows = [(name, *(map(_mean, (*one.parts, one.whole)))) for name, one in told if one]
    title = f"Where the difference from {results.names[0]} comes from at {results.loads[level]}"
    heads = ("", *PART_NAMES.values(), "end to end")
    return Grid(f"{title}: means with 95 % intervals over rounds, ms", heads, tuple(rows))


def _mean(one: Part) -> str:
    return f"{milliseconds(one.seconds)} {_interval(one.interval, 1e3)}"


def grids(findings: Findings) -> list[Grid]:
    """All tables of a report."""
    levels, told = range(len(findings.results.experiment.levels)), (level_grid, difference_grid, because_grid)
    made = [makeup_grid(findings), *(tell(findings, n) for n in levels for tell in told)]
    return [models_grid(findings), *(grid for grid in made if grid.rows)]


def difference_row(name: str, one: Difference) -> tuple[str, ...]:
    """One difference, its name first and its verdict last."""
    ms = f"{milliseconds(one.difference)} {_interval(one.difference_interval, 1e3)}"
    ratio = f"{plain(one.ratio)} {_interval(one.ratio_interval, 1.0)}"
    return (name, SHORT_NAMES[one.metric], ms, ratio, f"{one.adjusted:.3g}", _least(one), _verdict(one))


def _verdict(one: Difference) -> str:
    """As it is said, in no more letters where correction took it away."""
    if one.said == one.verdict:
        return one.verdict
    return f"not shown (p {one.adjusted:.3g})" if one.rounds >= SURE_ROUNDS else "not shown, corrected"


def _least(one: Difference) -> str:
    """The smallest effect that this run would have shown."""
    if one.smallest < 2:
        return f"± {one.smallest - 1:.1%}"
    return f"× {plain(one.smallest)}" if one.smallest < 100 else "–"


def _interval(interval: Interval, factor: float) -> str:
    return f"[{plain(interval.low * factor)}, {plain(interval.high * factor)}]"
