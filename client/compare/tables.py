"""A comparison as rows of text, for a terminal and for a page alike. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from client.api import ModelCard
from client.compare import losses
from client.compare.accounts import Account
from client.compare.because import Part
from client.compare.bits import Stretch, stretches
from client.compare.bootstrap import Interval
from client.compare.brief import besides
from client.compare.control import against_itself
from client.compare.exactness import identical
from client.compare.experiment import SURE_ROUNDS
from client.compare.paired import METRICS, NOT_SHOWN, Difference
from client.compare.predicted import costs
from client.compare.results import QUANTILES, Findings, Percentile, Results
from client.compare.searching import bounds, in_words, outcomes
from client.compare.words import METRIC_NAMES, PART_NAMES, SHORT_NAMES
from client.load.arrivals import describe
from client.load.statistics import Summary
from client.units import counted, milliseconds, percent, plain

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
    ("sent late p99, ms", lambda s: milliseconds(s.lag.p99)),
    ("prompt tokens from the prefix cache", lambda s: percent(s.cached_share)),
    ("routing entropy, 0 to 1", lambda s: plain(s.entropy)),
    ("routing imbalance, max / mean", lambda s: plain(s.imbalance)),
)

_ACCOUNT_ROWS: tuple[tuple[str, Callable[[Account], str]], ...] = (
    ("tokens a forward pass", lambda a: plain(a.batch)),
    ("FLOP a token", lambda a: counted(round(a.flops / a.tokens)) if a.tokens else "–"),
    ("bytes moved a token", lambda a: counted(round(a.moved_bytes / a.tokens)) if a.tokens else "–"),
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


def models_grid(results: Results) -> Grid:
    """What was compared."""
    rows = [(name, *(tell(card) for card in results.cards)) for name, tell in _CARD_ROWS]
    if any(results.capacities):
        rows.append(("tokens that the cache holds", *(counted(n) for n in results.capacities)))
    rows += [row for one in stretches(results.qualities) for row in _quality_rows(one, _names(results)[0])]
    if results.tried:
        rows.append(("highest rate within the objective", *_highest_rates(results)))
    return Grid("Architectures", ("", *_names(results)), tuple(rows))


def _highest_rates(results: Results) -> list[str]:
    return [in_words(*bounds(outcomes(results.tried, i))) for i in range(len(results.experiment.architectures))]


def _quality_rows(one: Stretch, baseline: str) -> list[tuple[str, ...]]:
    """What each came to, and how far it is from the first where texts were kept apart."""
    rows = [(f"bits per byte, {one.name}", *(f"{q.bits_per_byte:.4f}" if q else "–" for q in one.judged))]
    if any(one.apart):
        rows.append((f"against {baseline}, on the same texts", *(str(apart or "–") for apart in one.apart)))
        rows.append(("verdict", *(apart.verdict if apart else "–" for apart in one.apart)))
    return rows


def level_grid(findings: Findings, level: int) -> Grid:
    """What each architecture did at one level, all rounds together."""
    results = findings.results
    summaries = [findings.summaries[i, level] for i in range(len(results.cards))]
    told = (*_SUMMARY_ROWS, *(_OBJECTIVE_ROWS if results.experiment.objective.asks else ()))
    rows = [(name, *(tell(one) for one in summaries)) for name, tell in told]
    rows += [
        row for metric in ("first_token", "inter_token", "total") for row in _percentile_rows(findings, level, metric)
    ]
    rows.append(
        (f"answers the same as {_names(results)[0]}'s", *(_same(results, i, level) for i in range(len(summaries))))
    )
    rows += _predictions(findings, level)
    accounts = [findings.accounts[i, level] for i in range(len(results.cards))]
    rows += [(name, *(_told(one, tell) for one in accounts)) for name, tell in _ACCOUNT_ROWS if any(accounts)]
    return Grid(f"Load: {describe(results.experiment.levels[level])}", ("", *_names(results)), tuple(rows))


def _same(results: Results, architecture: int, level: int) -> str:
    same, told = identical(results, architecture, level)
    return f"{same} of {told}" if architecture and told else "–"


def _predictions(findings: Findings, level: int) -> list[tuple[str, ...]]:
    """Of cards that tell what a token costs, beside what the requests told of themselves."""
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


def _told(account: Account | None, tell: Callable[[Account], str]) -> str:
    return "–" if account is None else tell(account)


def difference_grid(findings: Findings, level: int) -> Grid:
    """Every architecture against the first at one level."""
    experiment = findings.results.experiment
    title = f"Against {experiment.baseline.name} at {describe(experiment.levels[level])}"
    rows = tuple(difference_row(name, one) for name, one in _against_baseline(findings, level))
    heads = ("", "time", "difference, ms", "ratio", "p, corrected", "could have seen", "verdict")
    return Grid(f"{title}, request by request: medians with 95 % intervals", heads, rows)


def because_grid(findings: Findings, level: int) -> Grid:
    """What the differences end to end at one level are made of; without rows where servers do not tell."""
    experiment = findings.results.experiment
    told = [(name, findings.because[i, level]) for i, name in enumerate(_names(findings.results)) if i]
    rows = [(name, *(map(_mean, (*one.parts, one.whole)))) for name, one in told if one]
    title = f"Where the difference from {experiment.baseline.name} comes from at {describe(experiment.levels[level])}"
    heads = ("", *PART_NAMES.values(), "end to end")
    return Grid(f"{title}: means with 95 % intervals over rounds, ms", heads, tuple(rows))


def _mean(one: Part) -> str:
    return f"{milliseconds(one.seconds)} {_interval(one.interval, 1e3)}"


def grids(findings: Findings) -> list[Grid]:
    """All tables of a report."""
    levels, told = range(len(findings.results.experiment.levels)), (level_grid, difference_grid, because_grid)
    loads = [grid for n in levels for tell in told if (grid := tell(findings, n)).rows]
    return [models_grid(findings.results), *loads]


def summary(findings: Findings) -> tuple[str, ...]:
    """The report in plain words: what failed, the baseline against itself, times of each architecture but the first,
    then what else there is to compare."""
    experiment = findings.results.experiment
    said = [_against(findings, i) for i in range(1, len(experiment.architectures)) if i != experiment.control]
    if any(one.verdict.startswith("seems") for some in findings.differences.values() for one in some):
        said.append(f"“Seems” only leans: a verdict needs {SURE_ROUNDS} rounds.")
    if findings.results.tried:
        told = zip(_names(findings.results), _highest_rates(findings.results), strict=True)
        said.append("Highest rate within the objective: " + "; ".join(f"{name} {rate}" for name, rate in told) + ".")
    return (*losses.of_places(findings.results), *against_itself(findings), *said, *besides(findings))


def _against(findings: Findings, i: int) -> str:
    experiment = findings.results.experiment
    found = [one for level in range(len(experiment.levels)) for one in findings.differences[i, level]]
    kinds = {word: _in_words(found, word) for word in ("faster", "slower", "seems faster", "seems slower")}
    shown = "; ".join(f"{word} in {text}" for word, text in kinds.items() if text)
    failed = "no verdict: too many requests failed" if any(one.too_lossy for one in found) else ""
    seen = [one.smallest if one.smallest < 100 else inf for one in found if one.metric in METRICS and one.pairs]
    nothing = NOT_SHOWN + (f" ({_seen(max(seen))} would have shown)" if seen else "")
    noisy = any(one.noisy for (side, _), one in findings.drifts.items() if side in (0, i))
    doubt = " The machine was too noisy to rely on this." if noisy else ""
    verdict = "; ".join(filter(None, (shown, failed))) or nothing
    return f"{experiment.architectures[i].name} against {experiment.baseline.name}: {verdict}.{doubt}"


def _seen(smallest: float) -> str:
    if not smallest < 100:
        return "nothing short of a factor of 100"
    return f"one of {smallest - 1:.0%}" if smallest < 2 else f"only a factor of {plain(smallest)}"


def _in_words(found: list[Difference], verdict: str) -> str:
    """ "first token by 1.2 to 1.4 times", for every metric with that verdict at any level."""
    parts = []
    for metric, short in SHORT_NAMES.items():
        ratios = [one.ratio for one in found if one.metric == metric and one.verdict == verdict]
        if ratios:
            sizes = sorted(max(r, 1 / r) for r in ratios)
            span = plain(sizes[0]) if len(sizes) == 1 else f"{plain(sizes[0])} to {plain(sizes[-1])}"
            parts.append(f"{short} by a factor of {span}")
    return ", ".join(parts)


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


def difference_row(name: str, one: Difference) -> tuple[str, ...]:
    """One difference, its name first and its verdict last."""
    ms = f"{milliseconds(one.difference)} {_interval(one.difference_interval, 1e3)}"
    ratio = f"{plain(one.ratio)} {_interval(one.ratio_interval, 1.0)}"
    return (name, SHORT_NAMES[one.metric], ms, ratio, f"{one.adjusted:.3g}", _least(one), one.verdict)


def _least(one: Difference) -> str:
    """The smallest effect that this run would have shown."""
    if one.smallest < 2:
        return f"± {one.smallest - 1:.1%}"
    return f"× {plain(one.smallest)}" if one.smallest < 100 else "–"


def _interval(interval: Interval, factor: float) -> str:
    return f"[{plain(interval.low * factor)}, {plain(interval.high * factor)}]"


def _sentence(name: str, base: str, load: str, one: Difference) -> str:
    metric = METRIC_NAMES[one.metric]
    if not one.pairs:
        return f"At {load}, nothing can be said of {metric}: no request was answered by both {name} and {base}."
    interval = f"95 % interval {plain(one.ratio_interval.low)} to {plain(one.ratio_interval.high)}"
    evidence = f"ratio {plain(one.ratio)}, {interval}, {one.pairs} pairs"
    if one.verdict == NOT_SHOWN:
        evidence += f"; {_seen(one.smallest)} would have shown"
    return f"At {load}, {metric} of {name} against {base}: {one.verdict} ({evidence})."


def _names(results: Results) -> tuple[str, ...]:
    return tuple(architecture.name for architecture in results.experiment.architectures)
