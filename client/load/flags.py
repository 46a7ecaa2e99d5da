"""How requests come, as options of a command."""

from __future__ import annotations

from typing import Annotated

import typer

from client.load.arrivals import Closed, Drawn, Kind

Rate = Annotated[float | None, typer.Option(help="Open loop: requests per second, whatever is in flight.")]
Concurrency = Annotated[int | None, typer.Option(help="Closed loop: requests in flight at any time.")]
Law = Annotated[Kind, typer.Option(help="With --rate: how arrivals are distributed.")]
Shape = Annotated[float, typer.Option(help="With gamma: below 1 in bursts, above 1 evenly.")]
Until = Annotated[float | None, typer.Option(help="With ramp: the rate at the end.")]


def law(rate: float | None, concurrency: int | None, kind: Kind, shape: float, until: float | None) -> Drawn | None:
    """What the options say; None where neither --rate nor --concurrency is given. Raises BadParameter."""
    if rate is not None and concurrency is not None:
        raise typer.BadParameter("give --rate for an open loop or --concurrency for a closed one, not both")
    try:
        if concurrency is not None:
            return Closed(concurrency)
        return None if rate is None else kind.at(rate, shape, until or 0.0)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
