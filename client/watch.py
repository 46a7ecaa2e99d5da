"""`dyno watch`: the load of a model's experts, drawn again and again."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client import interrupts
from client.api import Client
from client.connect import connect
from client.live import RoutingLoad
from client.options import LOCAL, Model, Target
from client.units import plain, sparks

_WIDEST_SPARKS = 64


def watch(
    target: Target = LOCAL,
    model: Model = "",
    interval: Annotated[float, typer.Option(help="Seconds between updates, 0.1 to 60.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many updates.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead.")] = False,
) -> None:
    """Watch how a model's tokens spread over its experts while it works.

    API keys and certificates are read from the environment.
    """
    interrupts.run(follow(connect(target), model, interval, count, Console(), json=json))


async def follow(
    client: Client, model: str, interval: float, count: int | None, console: Console, *, json: bool
) -> None:
    """Show each load as it comes, until the server ends the stream or `count` came. Raises ClientError."""
    seen = 0
    async with client, aclosing(client.watch_routing(model, interval)) as loads:
        with Live(console=console, auto_refresh=False) as screen:
            async for load in loads:
                if json:
                    console.out(orjson.dumps(asdict(load)).decode(), highlight=False)
                else:
                    screen.update(load_view(load), refresh=True)
                seen += 1
                if seen == count:
                    return


def load_view(load: RoutingLoad) -> Table:
    """One row a layer."""
    title = f"{load.model}: {load.tokens} tokens in {load.passes} forward passes, {load.seconds:.1f} s"
    title += f"; {load.running} running, {load.waiting} waiting"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("layer", "entropy", "max/mean", "busiest", "margin", "experts a pass"):
        table.add_column(name, justify="right")
    table.add_column("tokens of each expert")
    for one in load.layers:
        numbers = (one.entropy, one.imbalance, one.busiest_share, one.margin)
        spark = Text(sparks(one.expert_tokens[:_WIDEST_SPARKS]), style="cyan")
        table.add_row(str(one.layer), *map(_hundredths, numbers), plain(one.distinct_experts), spark)
    return table


def _hundredths(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"
