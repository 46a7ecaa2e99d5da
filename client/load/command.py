"""`dyno load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client import interrupts
from client.access import Access
from client.api import ClientError
from client.load import flags, session
from client.load.arrivals import Kind
from client.load.runner import Bounds
from client.load.statistics import Objective
from client.load.workload import Prompts, Workload
from client.options import LOCAL, ApiKey, Ca, Cert, Json, Key, Model, Target, print_json


def load(
    target: Target = LOCAL,
    model: Model = "",
    rate: flags.Rate = None,
    concurrency: flags.Concurrency = None,
    arrivals: flags.Law = Kind.POISSON,
    shape: flags.Shape = 0.5,
    until: flags.Until = None,
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 64,
    seconds: Annotated[float, typer.Option(help="Send nothing after so many seconds.")] = float("inf"),
    prompts: Annotated[Prompts, typer.Option(help="What the prompts are made of.")] = Prompts.TALES,
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Length of prompts; else 128, tales whole.")] = None,
    output_tokens: Annotated[int, typer.Option(min=1, help="Length of every answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="Of every request.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of prompts, arrivals and sampling.")] = 0,
    warmup: Annotated[int, typer.Option(min=0, help="Requests sent first, not measured; 0: none.")] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request has failed.")] = 600.0,
    first_token_within: Annotated[float | None, typer.Option(help="Objective of goodput, in seconds.")] = None,
    per_token_within: Annotated[float | None, typer.Option(help="Objective of goodput, in seconds.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Send the requests of this file instead.")] = None,
    save_trace: Annotated[Path | None, typer.Option(help="Write what was sent to this file.")] = None,
    api_key: ApiKey = "",
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Put a server under load and measure what it delivers."""
    law = flags.law(rate, concurrency, arrivals, shape, until)
    if law is None and trace is None:
        raise typer.BadParameter("say how the requests come: --rate R, --concurrency C or --trace FILE")
    plan = session.Plan(
        target=target,
        model=model,
        arrivals=law,
        workload=Workload(requests, output_tokens, prompts, prompt_tokens, temperature),
        seed=seed,
        warmup=warmup,
        bounds=Bounds(seconds, timeout),
        objective=Objective(first_token_within, per_token_within),
        trace=trace,
        save_trace=save_trace,
        access=Access(api_key, ca, cert, key),
    )
    done = interrupts.run(session.put_under_load(plan, Console(stderr=True)))
    if json:
        print_json(done.document())
    else:
        Console().print(done.view())
    if done.run.interrupted:
        raise interrupts.Interrupted("interrupted; what was measured until then is above")
    if done.failed:
        raise ClientError(done.failed)
