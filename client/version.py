"""`dyno --version`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer


def _tell(asked: bool) -> None:
    if asked:
        typer.echo(f"dyno {version('dyno')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_tell, is_eager=True, help="Tell the version and exit.")]
