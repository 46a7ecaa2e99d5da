"""One run of a load, for people (a table) and for programs (a versioned document)."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.load.arrivals import Closed, describe, to_json
from client.load.intervals import quantile_interval
from client.load.judgement import client_bound, of_the_prompts, warnings
from client.load.record import Run
from client.load.statistics import Objective, Summary
from client.load.steady import settled_after
from client.units import milliseconds, percent, plain

SCHEMA = "dyno.load/1"


def document(run: Run, summary: Summary, *, unshared: bool = False) -> dict[str, Any]:
    """The run as JSON values; seconds throughout, and null where there was nothing to measure. `unshared`: no two of
    its prompts begin alike, so that none should have been in the prefix cache."""
    return {
        "schema": SCHEMA,
        "target": run.target,
        "model": run.model,
        "started": run.started,
        "arrivals": to_json(run.arrivals),
        "trace": run.trace_hash,
        "interrupted": run.interrupted,
        "warnings": _notes(run, summary, unshared),
        "client_cpu_seconds": run.client_cpu,
        "client_held_up": run.held_up,
        "client_bound": client_bound(run),
        "settled_after": settled_after(run.records),
        "intervals": intervals(run),
        "summary": asdict(summary),
        "errors": errors(run),
    }


def intervals(run: Run) -> dict[str, dict[str, list[float | None]]]:
    """95 % intervals of the percentiles of all times that each request has one of; null where nothing bounds them."""
    good = [r for r in run.records if r.ok]
    values = {
        "first_token": [r.first_token for r in good if r.first_token is not None],
        "per_token": [r.per_token for r in good if r.per_token is not None],
        "total": [r.total for r in good],
    }
    return {
        name: {word: [e if isfinite(e) else None for e in quantile_interval(one, q)] for word, q in _QUANTILES.items()}
        for name, one in values.items()
    }


_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def errors(run: Run) -> dict[str, int]:
    """How often each error was met, most frequent first."""
    counts: dict[str, int] = {}
    for record in run.records:
        if record.error:
            counts[record.error] = counts.get(record.error, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def view(run: Run, summary: Summary, *, unshared: bool = False, objective: Objective | None = None) -> RenderableType:
    """The run as a screen: rates, the table of latencies, warnings and errors. `unshared` as for `document`;
    `objective` is the one that the summary's goodput is of."""
    parts: list[RenderableType] = [_rates(run, summary)]
    if objective and objective.asks:
        parts.append(Text(_goodput(summary, objective)))
    parts += [_latencies(summary, intervals(run)), Text(_settling(run))]
    if summary.entropy == summary.entropy:  # not NaN: there are experts
        parts.append(Text(f"routing: entropy {summary.entropy:.2f}, busiest over mean {summary.imbalance:.2f}"))
    parts += [Text(f"note: {warning}", style="yellow") for warning in _notes(run, summary, unshared)]
    parts += [Text(f"{count} × {error}", style="red") for error, count in list(errors(run).items())[:5]]
    return Group(*parts)


def _notes(run: Run, summary: Summary, unshared: bool) -> list[str]:
    return [*warnings(run), *(of_the_prompts(summary) if unshared else ())]


def _rates(run: Run, summary: Summary) -> Text:
    closed = isinstance(run.arrivals, Closed)
    left = f" ({summary.cancelled} left, as the trace says)" if summary.cancelled else ""
    lines = [
        f"{run.model or 'the model'} at {run.target}, {describe(run.arrivals)}, trace {run.trace_hash[:12]}",
        f"{summary.completed} of {summary.requests} requests answered{left} in {plain(summary.seconds)} s: "
        f"{plain(summary.request_rate)} requests/s, {plain(summary.output_rate)} generated tokens/s, "
        f"{percent(summary.cached_share)} of the prompt tokens from the prefix cache",
    ]
    if not closed:
        lines.append(f"sent {milliseconds(summary.lag.p99)} ms late at the 99th percentile")
    return Text("\n".join(lines))


def _goodput(summary: Summary, objective: Objective) -> str:
    limits = {
        "first token": objective.first_token,
        "per output token": objective.per_token,
        "end to end": objective.total,
    }
    asked = ", ".join(f"{name} {milliseconds(limit)} ms" for name, limit in limits.items() if limit is not None)
    share = percent(summary.goodput_share)
    return f"goodput {plain(summary.goodput)} requests/s: {share} of the requests within {asked}"


def _settling(run: Run) -> str:
    after = settled_after(run.records)
    if after is None:
        return "steady state: not shown (fewer than 40 requests, or the times never settled)"
    return "steady from the first request" if after == 0 else f"steady after the first {after} requests"


def _latencies(summary: Summary, bounds: dict[str, dict[str, list[float | None]]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("milliseconds")
    for name in ("mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right")
    rows = (
        ("time to first token", "first_token", summary.first_token),
        ("inter-token", "", summary.inter_token),
        ("per output token", "per_token", summary.per_token),
        ("end to end", "total", summary.total),
    )
    for name, key, d in rows:
        table.add_row(name, *map(milliseconds, (d.mean, d.p50, d.p90, d.p95, d.p99, d.maximum)))
        if key and d.count:
            told = (_between(*bounds[key][word]) for word in _QUANTILES)
            table.add_row("  95 % interval", "", *told, "", style="dim")
    return table


def _between(low: float | None, high: float | None) -> str:
    return f"{milliseconds(low)}…{milliseconds(high)}"
