"""A comparison for people: a screen, and one HTML file that needs nothing else."""

from __future__ import annotations

from html import escape
from pathlib import Path

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.compare.results import Findings, Results, cautions, document
from client.compare.tables import Grid, difference_grid, level_grid, models_grid, sentences


def write(findings: Findings, folder: Path) -> None:
    """results.json and report.html, each replaced in one piece. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "results.json", orjson.dumps(document(findings), option=orjson.OPT_INDENT_2))
    _replace(folder / "report.html", page(findings).encode())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def view(findings: Findings) -> RenderableType:
    """The comparison as a screen."""
    parts: list[RenderableType] = [_table(grid) for grid in _grids(findings)]
    return Group(*parts, *(Text(f"note: {caution}", style="yellow") for caution in cautions(findings.results)))


def _grids(findings: Findings) -> list[Grid]:
    levels = range(len(findings.results.experiment.levels))
    loads = [grid for n in levels for grid in (level_grid(findings, n), difference_grid(findings, n))]
    return [models_grid(findings.results), *loads]


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left", box=None, pad_edge=False)
    for i, head in enumerate(grid.heads):
        table.add_column(head, justify="left" if i == 0 else "right", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


def page(findings: Findings) -> str:
    """The report as a page of its own: findings first, then the tables, the machine and how to run it again."""
    results = findings.results
    name = escape(results.experiment.name)
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(findings))
    notes = "".join(f"<li>{escape(caution)}</li>" for caution in cautions(results))
    machine = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in results.environment.items())
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>
<style>{_STYLE}</style></head>
<body>
<h1>{name}</h1>
<h2>Findings</h2>
<ul>{said}</ul>
{f"<h2>Before believing them</h2><ul>{notes}</ul>" if notes else ""}
{"".join(_section(grid) for grid in _grids(findings))}
<h2>How it was measured</h2>
<p>{escape(_method(results))}</p>
<dl>{machine}</dl>
<p>The same again: <code>dyno compare FILE --out DIR</code>, with the experiment that <code>results.json</code> holds
beside every single record.</p>
</body>
</html>
"""


def _section(grid: Grid) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid.heads)
    rows = "".join(_row(row) for row in grid.rows)
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<h2>{escape(grid.title)}</h2><div class="wide"><table>{body}</table></div>'


def _row(row: tuple[str, ...]) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
    return f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>'


def _method(results: Results) -> str:
    experiment = results.experiment
    own = sum(not architecture.target for architecture in experiment.architectures)
    return (
        f"{experiment.repeats} rounds of {experiment.workload.requests} requests at each level. In each round the same "
        "trace was sent to every architecture in turn, in an order that changes from round to round. "
        f"{own} of {len(experiment.architectures)} architectures had a server process of their own on this machine. "
        "Latencies are the client's, counted from the instant a request was meant to be sent. Differences are medians "
        "over pairs of the same request. Intervals come from a bootstrap that draws rounds, then requests within them; "
        "each stands for itself, with no correction for looking at several."
    )


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; font-weight: normal; padding-left: 0; }
thead th { color: var(--quiet); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--quiet); } dd { margin: 0; }
@media print { body { max-width: none; margin: 0; } }
"""
