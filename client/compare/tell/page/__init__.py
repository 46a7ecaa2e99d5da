"""The report's page: one HTML file that needs nothing else. Findings first, then plots, tables, machine, command."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import groupby

from client.compare.judge.findings import Findings
from client.compare.measure.results import Results
from client.compare.plan.schedule import Order
from client.compare.tell.brief import notes
from client.compare.tell.figure import Figure
from client.compare.tell.figures import figures
from client.compare.tell.plots import COLOURS
from client.compare.tell.tables import Grid, grids
from client.compare.tell.verdicts import sentences, summary
from client.units import several

_ORDERS = {
    Order.ROTATED: "in an order that is rotated and reversed so that each follows each other one about as often",
    Order.FIXED: "always in the order of the file",
    Order.RANDOM: "in an order drawn by the seed",
}


def page(findings: Findings, more: Sequence[Grid] = ()) -> str:
    """The whole report, with more tables after its own."""
    results = findings.results
    name = escape(results.experiment.name)
    here = files("client.compare.tell.page")
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>
<style>{here.joinpath("style.css").read_text()}</style></head>
<body>
<h1>{name}</h1>
<p class="about">{escape(_about(results))}</p>
<h2>In short</h2>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in summary(findings))}</ul>
{_notes(findings)}
<div class="legend">{_legend(results)}</div>
{_parts(figures(findings))}
<details><summary>Every comparison in words</summary>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in sentences(findings))}</ul></details>
{"".join(_section(grid) for grid in (*grids(findings), *more))}
<h2>How it was measured</h2>
<p>{escape(method(results))}</p>
{_machine(results)}
{_again(results)}
<div id="tip" hidden></div>
<script>{here.joinpath("script.js").read_text()}</script>
</body>
</html>
"""


def _about(results: Results) -> str:
    runs = results.measured
    when = f", measured from {runs[0].run.started} on" if runs else ""
    count = sum(len(m.run.records) for m in runs)
    control = results.experiment.control
    asked = len(results.experiment.architectures) - (control is not None)
    again = "" if control is None else f", {results.experiment.baseline.name} a second time as a control"
    return f"{several(asked, 'architecture')}{again}, {several(count, 'request')}{when}."


def _notes(findings: Findings) -> str:
    said = "".join(f"<li>{escape(note)}</li>" for note in notes(findings))
    return f'<div class="notes"><h2>Before believing it</h2><ul>{said}</ul></div>' if said else ""


def _legend(results: Results) -> str:
    names = enumerate(results.names)
    return "".join(
        f'<button type="button" class="s{i % COLOURS}" data-series="{i}" aria-pressed="true">{escape(name)}</button>'
        for i, name in names
    )


def _parts(told: tuple[Figure, ...]) -> str:
    """The plots, each part under its heading."""
    return "".join(
        f'<h2>{escape(part)}</h2><div class="plots">{"".join(map(_figure, some))}</div>'
        for part, some in groupby(told, key=lambda one: one.part)
    )


def _figure(one: Figure) -> str:
    return f"<figure><h3>{escape(one.title)}</h3><figcaption>{escape(one.sentence)}</figcaption>{one.svg}</figure>"


def _section(grid: Grid) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid.heads)
    rows = "".join(_row(grid.heads, row) for row in grid.rows)
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    # Where each column says something else of its row, a phone sets them one under another.
    kind = ' class="words"' if grid.words else ' class="cards"' if grid.heads[-1] == "verdict" else ""
    return f'<h2>{escape(grid.title)}</h2><div class="wide"><table{kind}>{body}</table></div>'


def _row(heads: tuple[str, ...], row: tuple[str, ...]) -> str:
    told = zip(heads[1:], row[1:], strict=True)
    cells = "".join(f'<td data-head="{escape(head)}">{escape(cell)}</td>' for head, cell in told)
    return f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>'


def _counts(requests: Sequence[int]) -> str:
    """How many requests a round has at each level, in words."""
    if len(set(requests)) == 1:
        return f"{several(requests[0], 'request')} at each level"
    return f"{', '.join(map(str, requests[:-1]))} and {several(requests[-1], 'request')}, by level"


def method(results: Results) -> str:
    """How the numbers came about, in a paragraph."""
    experiment = results.experiment
    own = sum(not architecture.target for architecture in experiment.architectures)
    return (
        f"{several(experiment.repeats, 'round')} of {_counts(experiment.requests)}. In each round the same "
        "trace was sent to every architecture in turn, half a second after the one before, "
        f"{_ORDERS[experiment.order]}. "
        f"For this {own or 'no'} server{'s were' if own != 1 else ' was'} started on this machine. "
        "Latencies are the client's, counted from the instant a request was meant to be sent. Differences of times are "
        "medians over pairs of the same request; their 95 % intervals come from a bootstrap that draws rounds, then "
        "requests within them, widened for few rounds by Student's t, and a verdict also needs a signed-rank test over "
        "rounds below 5 %. Tails and throughput have one number a round: geometric means over rounds, with Student's t "
        "for intervals and verdicts. Holm's correction is for each of these two kinds, with every comparison of this "
        "page that is of it; a control's are corrected among themselves, and so are differences of bits per "
        "byte. docs/statistics.md has how often all this is right."
    )


def _machine(results: Results) -> str:
    told = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in results.environment.items())
    traces = list(dict.fromkeys(m.run.trace_hash[:12] for m in results.measured))
    return f"<dl>{told}<dt>traces</dt><dd>{escape(', '.join(traces) or '–')}</dd></dl>"


def _again(results: Results) -> str:
    source = results.experiment.source
    command = escape(results.command or "dyno compare experiment.toml --out DIR")
    said = f"<h2>The same again</h2><pre><code>{command}</code></pre>"
    path = escape(results.experiment.path or "experiment.toml")
    parts = {path: source} | {escape(name): text for name, text in results.experiment.texts.items()}
    return said + "".join(f"<p>{n}:</p><pre><code>{escape(t)}</code></pre>" for n, t in parts.items() if t)
