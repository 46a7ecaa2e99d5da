"""Numbers of which each round has one: tails and throughput, of which a median of pairs says nothing. Pure.

A server that holds up every twentieth request for a second is as quick as another by the median; it is not by these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from client.compare.judge.paired import MOST_LOST, Difference, over_rounds
from client.load.arrivals import Closed
from client.load.judgement import in_pieces
from client.load.record import Record, Run
from client.load.statistics import gaps


def over_runs(pairs: Sequence[tuple[Run, Run]]) -> tuple[Difference, ...]:
    """One difference for each of `OF_A_RUN` that the runs tell of; each pair is a round, (baseline, other). A round in
    which too many requests of either side failed is lost: the times of the others are no fair sample."""
    whole = [pair for pair in pairs if not any(map(lossy, pair))]
    unsaid = _unsaid([run for pair in pairs for run in pair])
    return tuple(
        _difference(metric, read, whole, len(pairs) - len(whole))
        for metric, read in OF_A_RUN.items()
        if metric not in unsaid
    )


def _unsaid(runs: Sequence[Run]) -> set[str]:
    """Metrics that these runs say nothing of. In an open loop both sides serve what is offered, and only the last
    request's end would differ. Between pieces is not between tokens: a server that sends more at once would look
    slower, or faster, for it."""
    offered = {"throughput"} if not all(isinstance(run.arrivals, Closed) for run in runs) else set()
    return offered | ({"inter_token_p99"} if any(map(in_pieces, runs)) else set())


def _difference(metric: str, read: Callable[[Run], float], pairs: Sequence[tuple[Run, Run]], lost: int) -> Difference:
    told = [(read(baseline), read(other)) for baseline, other in pairs]
    return over_rounds(metric, [(one, other) for one, other in told if one > 0 and other > 0], lost)


def lossy(run: Run) -> bool:
    """Whether too many requests failed for the others to be a fair sample."""
    return sum(bool(r.error) for r in run.records) > MOST_LOST * len(run.records)


def _quantile(q: float, read: Callable[[Record], Sequence[float]]) -> Callable[[Run], float]:
    def of(run: Run) -> float:
        values = [value for r in run.records if r.ok and not r.may_leave for value in read(r)]
        return float(np.quantile(values, q)) if values else 0.0

    return of


def _first_token(record: Record) -> Sequence[float]:
    return () if record.first_token is None else (record.first_token,)


def seconds_a_token(run: Run) -> float:
    """Throughput, turned about so that less is better; with what came to users before they left."""
    tokens = sum(r.tokens for r in run.records if not r.error)
    return run.seconds / tokens if tokens else 0.0


OF_A_RUN: dict[str, Callable[[Run], float]] = {
    "first_token_p95": _quantile(0.95, _first_token),
    "inter_token_p99": _quantile(0.99, gaps),
    "total_p95": _quantile(0.95, lambda record: (record.total,)),
    "throughput": seconds_a_token,
}
