"""`dyno trace make | import | record | show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client import interrupts
from client.connect import connect
from client.load import flags, importing, recording
from client.load.arrivals import Drawn, Kind
from client.load.lengths import Lengths, parse_lengths
from client.load.prompts import tales
from client.load.statistics import Distribution
from client.load.trace import Trace, TraceError
from client.load.workload import Prompts, Subject, Workload, draw, drawn_ids, find, made
from client.units import plain

Out = Annotated[Path, typer.Argument(help="Where the trace is written.")]
Vocab = Annotated[int, typer.Option(min=1, help="Token ids are drawn below this.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn at random.")]


def make(
    out: Out,
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 64,
    rate: flags.Rate = None,
    concurrency: Annotated[int | None, typer.Option(help="Closed loop of this many: no arrival times.")] = None,
    arrivals: flags.Law = Kind.POISSON,
    shape: flags.Shape = 0.5,
    until: flags.Until = None,
    prompts: Annotated[Prompts, typer.Option(help="What the prompts are made of.")] = Prompts.RANDOM,
    prompt_tokens: Annotated[str, typer.Option(help="N, uniform:A:B, log-normal:MEDIAN:SIGMA:MOST, file:PATH.")] = "",
    output_tokens: Annotated[str, typer.Option(help="In the same forms.")] = "64",
    vocab: Vocab = 4096,
    target: Annotated[str, typer.Option(help="Server whose tokenizer cuts tales to --prompt-tokens.")] = "",
    model: Annotated[str, typer.Option(help="Which of its models.")] = "",
    families: Annotated[int, typer.Option(min=1, help="With shared: number of common beginnings.")] = 1,
    share: Annotated[float, typer.Option(min=0, max=1, help="With shared: share of a prompt that is common.")] = 0.75,
    tenants: Annotated[int, typer.Option(min=0, help="Number of users who take turns.")] = 0,
    cancelled: Annotated[float, typer.Option(min=0, max=1, help="Share of the users who leave early.")] = 0.0,
    cancel_after: Annotated[float, typer.Option(help="Seconds after sending at which they leave.")] = 1.0,
    temperature: Annotated[float, typer.Option(min=0, help="Of every request.")] = 0.0,
    seed: Seed = 0,
) -> None:
    """Draw a trace: arrivals, lengths, prompts, users."""
    workload = Workload(
        requests=requests,
        output_tokens=_lengths(output_tokens),
        prompts=prompts,
        prompt_tokens=_lengths(prompt_tokens) if prompt_tokens else None,
        temperature=temperature,
        families=families,
        share=share,
        tenants=tenants,
        cancelled=cancelled,
        cancel_after=cancel_after,
    )
    law = flags.law(rate, concurrency, arrivals, shape, until)
    if law is None:
        raise typer.BadParameter("give --rate for an open loop or --concurrency for a closed one")
    if target:
        trace = interrupts.run(_drawn(workload, law, target, model, seed))
    elif prompts is Prompts.TALES:
        if workload.prompt_tokens is not None:
            raise typer.BadParameter("only a server can cut tales to --prompt-tokens: give --target, or leave it out")
        trace = made(workload, law, tales(requests, seed), seed=seed)
    else:
        trace = made(workload, law, drawn_ids(workload, vocab, seed), seed=seed)
    _keep(trace, out)


async def _drawn(workload: Workload, law: Drawn, target: str, model: str, seed: int) -> Trace:
    async with connect(target) as client:
        subject = Subject(client, find(await client.models(), model))
        return await draw(workload, law, [subject], seed=seed)


def _lengths(text: str) -> Lengths:
    try:
        return parse_lengths(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def import_(
    form: Annotated[importing.Format, typer.Argument(help="The format of the file.")],
    file: Annotated[Path, typer.Argument(help="The published file.")],
    out: Out,
    vocab: Vocab = 4096,
    requests: Annotated[int | None, typer.Option(min=1, help="Take at most this many.")] = None,
    context: Annotated[int | None, typer.Option(min=2, help="Leave out longer requests, in tokens.")] = None,
    shorter: Annotated[float, typer.Option(help="Divide every length by this.")] = 1.0,
    faster: Annotated[float, typer.Option(help="Divide every arrival time by this.")] = 1.0,
    rate: Annotated[float, typer.Option(help="For ShareGPT, which has no arrival times: Poisson at this rate.")] = 1.0,
    seed: Seed = 0,
) -> None:
    """Turn a published trace into one of Dyno's."""
    try:
        shaping = importing.Shaping(vocab, requests, context, shorter, faster, Kind.POISSON.at(rate), seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _keep(importing.read(form, file, shaping), out)


def record(
    log: Annotated[Path, typer.Argument(help="What `dyno serve --request-log` wrote.")],
    out: Out,
    vocab: Vocab = 4096,
    model: Annotated[str, typer.Option(help="Which of the logged models.")] = "",
    seed: Seed = 0,
    skip: Annotated[int, typer.Option(min=0, help="Leave out the first N, such as a warm-up.")] = 0,
) -> None:
    """Turn a server's request log into a trace: the same arrivals and lengths, other words.

    Of requests that had a token: those that were refused, failed or waited in vain are left out, so that the trace of
    an overloaded server is one of a lighter load.
    """
    _keep(recording.record(log, vocab, model, seed, skip), out)


def show(file: Annotated[Path, typer.Argument(help="A trace.")]) -> None:
    """Describe a trace."""
    _tell(Trace.read(file), file)


def _keep(trace: Trace, out: Path) -> None:
    trace.write(out)
    _tell(trace, out)


def _tell(trace: Trace, path: Path) -> None:
    rows = trace.rows
    if not rows:
        raise TraceError(f"{path} has no requests")
    console = Console()
    seconds = trace.seconds
    rate = f"{plain((len(rows) - 1) / seconds)} requests/s over {plain(seconds)} s" if seconds else "no instants"
    console.print(f"{path}: {len(rows)} requests, {rate}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"hash {trace.hash}", soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False)
    for head in ("", "mean", "p50", "p95", "max"):
        table.add_column(head, justify="right" if head else "left")
    ids = [len(row.prompt) for row in rows if isinstance(row.prompt, tuple)]
    texts = [len(row.prompt.encode()) for row in rows if isinstance(row.prompt, str)]
    for name, values in (
        ("prompt tokens", ids),
        ("prompt bytes", texts),
        ("output tokens", [r.max_tokens for r in rows]),
    ):
        if values:
            d = Distribution.of(values)
            table.add_row(name, *map(plain, (d.mean, d.p50, d.p95, d.maximum)))
    console.print(table)
    leaving, tenants = sum(r.cancel_after is not None for r in rows), len({r.tenant for r in rows if r.tenant})
    if leaving or tenants:
        console.print(f"{leaving} leave before the end, {tenants} tenants", highlight=False)
