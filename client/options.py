"""Options that several commands have, and how JSON is printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

LOCAL = "http://127.0.0.1:8000"

Target = Annotated[
    str,
    typer.Option(
        envvar="DYNO_TARGET", help="http://HOST:PORT for REST, grpc://HOST:PORT for gRPC; https, grpcs for TLS."
    ),
]
Model = Annotated[str, typer.Option(help="Which of the served models; not needed when there is only one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling reproducible.")]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")]
ApiKey = Annotated[str, typer.Option(envvar="DYNO_API_KEY", help="For servers that require one; better as a variable.")]
Ca = Annotated[Path | None, typer.Option(envvar="DYNO_CA", help="With TLS: PEM file of the server's authority.")]
Cert = Annotated[Path | None, typer.Option(envvar="DYNO_CERT", help="With TLS: PEM file of the client's certificate.")]
Key = Annotated[Path | None, typer.Option(envvar="DYNO_KEY", help="With TLS: PEM file of its key.")]


def print_json(value: object) -> None:
    """What `--json` asks for."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
