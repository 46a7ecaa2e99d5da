"""`dyno compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.compare.judge.findings import Findings, conclude
from client.compare.judge.losses import mostly_failed
from client.compare.plan import experiment as experiments
from client.compare.session import measured
from client.compare.tell import against as gate
from client.compare.tell import document, report, tidy
from client.compare.tell.against import Gate

FAILED = 1  # exit codes
REGRESSION = 3
UNJUDGED = 4
INTERRUPTED = 130


def compare(
    file: Annotated[Path, typer.Argument(help="The experiment, a TOML file; or results.json, to print it again.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")] = Path("runs/compare"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue what the folder already holds.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what the folder already holds.")] = False,
    form: Annotated[report.Form, typer.Option("--format", help="How tables are printed.")] = report.Form.TABLE,
    against: Annotated[
        Path | None,
        typer.Option(help="Older results.json to compare with: exit code 3 if worse, 4 if undecided."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="With --against: how much slower still passes, as a share.")
    ] = gate.TOLERANCE,
) -> None:
    """Replay one load on several architectures and report which differences are shown."""
    old = document.read(against) if against else None  # better a wrong path now than after an hour
    status, again = Console(stderr=True), file.suffix == ".json"
    if again:
        findings = conclude(document.read(file))
    else:
        findings = measured(experiments.read(file), out, status, resume=resume, force=force)
        findings.results.command = shlex.join(["dyno", *sys.argv[1:]])
    found = gate.judge(old, findings.results, tolerance) if old else None
    _print(findings, found, form)
    if not again:  # after it was printed: a full disk must not take the answer with it
        _write(findings, found, out, status)
    if findings.results.interrupted and not again:
        status.print(f"dyno: interrupted; what was measured is in {out}, --resume goes on with it", style="red")
        raise typer.Exit(INTERRUPTED)
    _end(findings, found, status)


def _write(findings: Findings, found: Gate | None, out: Path, status: Console) -> None:
    """Raises OSError, which says what is on the disk all the same."""
    try:
        report.write(findings, out, found.grids() if found else ())
    except OSError as error:
        raise OSError(f"the report is not on disk: {error}; {document.kept(out / 'results.json')}") from error
    status.print(f"written: {out / 'report.html'}, {out / 'results.json'}", style="dim", soft_wrap=True)


def _print(findings: Findings, found: Gate | None, form: report.Form) -> None:
    more = found.grids() if found else ()
    match form:
        case report.Form.TABLE:
            Console().print(report.view(findings, more))
        case report.Form.MD:
            sys.stdout.write(report.markdown(findings, more))
        case report.Form.CSV:
            sys.stdout.write(tidy.comma_separated(findings))
            for grid in more:  # what is printed is data alone
                Console(stderr=True).print(report.Fitted(grid))


def _end(findings: Findings, found: Gate | None, status: Console) -> None:
    """Says what is wrong, and exits with the code for it, a regression before a failure before what cannot be told."""
    failed = findings.results.gone or ", ".join(mostly_failed(findings.results))
    if failed:
        status.print(f"dyno: this comparison failed: {failed}", style="red", markup=False, soft_wrap=True)
    for reason in found.unjudged if found else ():
        status.print(f"note: not judged: {reason}", style="yellow", markup=False, soft_wrap=True)
    if found and found.failed:
        raise typer.Exit(REGRESSION)
    if failed:
        raise typer.Exit(FAILED)
    if found and found.unjudged:
        raise typer.Exit(UNJUDGED)
