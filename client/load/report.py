"""One run of a load, for people (a table) and for programs (a versioned document)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.load.arrivals import Closed, describe
from client.load.record import Run, warnings
from client.load.statistics import Summary
from client.units import milliseconds, percent, plain

SCHEMA = "dyno.load/1"


def document(run: Run, summary: Summary) -> dict[str, Any]:
    """The run as JSON values; seconds throughout, and null where there was nothing to measure."""
    kind = type(run.arrivals).__name__.lower()
    return {
        "schema": SCHEMA,
        "target": run.target,
        "model": run.model,
        "started": run.started,
        "arrivals": {"kind": kind, **asdict(run.arrivals)},
        "trace": run.trace_hash,
        "interrupted": run.interrupted,
        "warnings": list(warnings(run)),
        "client_cpu_seconds": run.client_cpu,
        "summary": asdict(summary),
        "errors": errors(run),
    }


def errors(run: Run) -> dict[str, int]:
    """How often each error was met, most frequent first."""
    counts: dict[str, int] = {}
    for record in run.records:
        if record.error:
            counts[record.error] = counts.get(record.error, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def view(run: Run, summary: Summary) -> RenderableType:
    """The run as a screen: rates, the table of latencies, warnings and errors."""
    parts: list[RenderableType] = [_rates(run, summary), _latencies(summary)]
    if summary.entropy == summary.entropy:  # not NaN: there are experts
        parts.append(Text(f"routing: entropy {summary.entropy:.2f}, busiest over mean {summary.imbalance:.2f}"))
    parts += [Text(f"note: {warning}", style="yellow") for warning in warnings(run)]
    parts += [Text(f"{count} × {error}", style="red") for error, count in list(errors(run).items())[:5]]
    return Group(*parts)


def _rates(run: Run, summary: Summary) -> Text:
    closed = isinstance(run.arrivals, Closed)
    lines = [
        f"{run.model or 'the model'} at {run.target}, {describe(run.arrivals)}, trace {run.trace_hash[:12]}",
        f"{summary.completed} of {summary.requests} requests answered in {plain(summary.seconds)} s: "
        f"{plain(summary.request_rate)} requests/s, {plain(summary.output_rate)} generated tokens/s, "
        f"{percent(summary.cached_share)} of the prompt tokens from the prefix cache",
    ]
    if not closed:
        lines.append(f"sent {milliseconds(summary.lag.p99)} ms late at the 99th percentile")
    return Text("\n".join(lines))


def _latencies(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("milliseconds")
    for name in ("mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right")
    rows = (
        ("time to first token", summary.first_token),
        ("inter-token", summary.inter_token),
        ("per output token", summary.per_token),
        ("end to end", summary.total),
    )
    for name, d in rows:
        table.add_row(name, *map(milliseconds, (d.mean, d.p50, d.p90, d.p95, d.p99, d.maximum)))
    return table
