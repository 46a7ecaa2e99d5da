"""A comparison for people: a screen, a page, and tables for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import orjson
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from client.compare.judge.findings import Findings
from client.compare.tell.brief import notes
from client.compare.tell.document import document
from client.compare.tell.page import page
from client.compare.tell.tables import Grid, grids
from client.compare.tell.verdicts import summary

_ANY_WIDTH = 1000


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
    parts += [Fitted(grid) for grid in (*grids(findings), *more)]
    return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in notes(findings)))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table where it fits the terminal; else its rows in words, as on a phone, a line a cell where cells are words
    already: no cell is broken."""

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        made = _table(self.grid)
        if Measurement.get(console, options.update(max_width=_ANY_WIDTH), made).maximum <= options.max_width:
            yield made
            return
        yield Text(self.grid.title, style="table.title")
        for name, *cells in self.grid.rows:
            each = zip(self.grid.heads[1:], cells, strict=True)
            if self.grid.words:
                yield Text("\n".join([f"{name}:", *(f"  {head}: {cell}" for head, cell in each)]))
            else:
                yield Text(f"{name}: {'; '.join(f'{head} {cell}' for head, cell in each)}")


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left", box=None, pad_edge=False)
    for i, head in enumerate(grid.heads):
        table.add_column(head, justify="left" if i == 0 or grid.words else "right", no_wrap=True)
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
