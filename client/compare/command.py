"""`dyno compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.compare import against as gate
from client.compare import document, report
from client.compare import experiment as experiments
from client.compare.against import NothingToCompare
from client.compare.document import ResultsError
from client.compare.losses import mostly_failed
from client.compare.results import Findings, Results, conclude
from client.compare.session import run_and_report

FAILED = 1  # exit codes
REGRESSION = 3
INTERRUPTED = 130


def compare(
    file: Annotated[Path, typer.Argument(help="The experiment, a TOML file; or results.json, to look at it again.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")] = Path("runs/compare"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds already.")] = False,
    form: Annotated[report.Form, typer.Option("--format", help="Of the tables that are printed.")] = report.Form.TABLE,
    against: Annotated[Path | None, typer.Option(help="Older results.json: exit code 3 if anything is slower.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="With --against: so much slower is none.")] = gate.TOLERANCE,
) -> None:
    """Replay one load on several architectures and tell what can be said of the difference."""
    old = document.read(against) if against else None  # better a wrong path now than after an hour
    status, again = Console(stderr=True), file.suffix == ".json"
    if again:
        findings = conclude(document.read(file))
    else:
        findings = run_and_report(experiments.read(file), out, status, resume=resume)
    _print(findings, form)
    if not again:
        status.print(f"written: {out / 'report.html'}, {out / 'results.json'}", style="dim", soft_wrap=True)
    if findings.results.interrupted and not again:
        status.print(f"dyno: interrupted; what was measured is in {out}, --resume goes on with it", style="red")
        raise typer.Exit(INTERRUPTED)
    if failed := findings.results.gone or ", ".join(mostly_failed(findings.results)):
        status.print(f"dyno: this comparison failed: {failed}", style="red", markup=False, soft_wrap=True)
    if old is not None:
        _gate(old, findings, tolerance, status)
    if failed:
        raise typer.Exit(FAILED)


def _print(findings: Findings, form: report.Form) -> None:
    match form:
        case report.Form.TABLE:
            Console().print(report.view(findings))
        case report.Form.MD:
            sys.stdout.write(report.markdown(findings))
        case report.Form.CSV:
            sys.stdout.write(report.comma_separated(findings))


def _gate(old: Results, findings: Findings, tolerance: float, status: Console) -> None:
    """Exits with REGRESSION. Raises ResultsError where nothing can be compared."""
    try:
        found = gate.changes(old, findings.results)
    except NothingToCompare as error:
        raise ResultsError(str(error)) from error
    Console().print(report.table(gate.grid(found, tolerance)))
    if gate.few_rounds(found):
        status.print("note: fewer than five rounds in common: no verdict, so this gate cannot fail", style="yellow")
    if any(one.regressed(tolerance) for one in found):
        raise typer.Exit(REGRESSION)
