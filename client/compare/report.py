"""A comparison for people: a screen, a page, and tables for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.compare.brief import notes
from client.compare.document import document
from client.compare.findings import Findings
from client.compare.page import page
from client.compare.tables import Grid, grids
from client.compare.verdicts import summary


class Form(StrEnum):
    """How the tables are printed."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"


def write(findings: Findings, folder: Path, more: Sequence[Grid] = ()) -> None:
    """results.json and report.html, each replaced in one piece, with tables of others at their end. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    told = document(findings) | ({"against": [asdict(grid) for grid in more]} if more else {})
    _replace(folder / "results.json", orjson.dumps(told, option=orjson.OPT_INDENT_2))
    _replace(folder / "report.html", page(findings, more).encode())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)  # a full disk should not stay full for half a file
        raise


def view(findings: Findings, more: Sequence[Grid] = ()) -> RenderableType:
    """The comparison as a screen."""
    parts: list[RenderableType] = [Text(f"{line}", style="bold") for line in summary(findings)]
    parts += [table(grid) for grid in (*grids(findings), *more)]
    return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in notes(findings)))


def table(grid: Grid) -> Table:
    """For a terminal."""
    table = Table(title=grid.title, title_justify="left", box=None, pad_edge=False)
    for i, head in enumerate(grid.heads):
        table.add_column(head, justify="left" if i == 0 else "right", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


def markdown(findings: Findings, more: Sequence[Grid] = ()) -> str:
    """The summary, the tables and the notes, for a page or an issue."""
    parts = ["\n".join(f"- {line}" for line in summary(findings))]
    parts += [_markdown_table(grid) for grid in (*grids(findings), *more)]
    parts += ["\n".join(f"> note: {note}" for note in notes(findings))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(grid: Grid) -> str:
    lines = [_cells(grid.heads), "|---|" + "---:|" * (len(grid.heads) - 1), *(_cells(row) for row in grid.rows)]
    return f"### {grid.title}\n\n" + "\n".join(lines)


def _cells(row: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
