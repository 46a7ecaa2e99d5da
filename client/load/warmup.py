"""The requests before the measured ones: nothing that is measured should pay for a first time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from client.api import ClientError
from client.load.arrivals import Arrivals, Closed
from client.load.runner import Load, run
from client.load.trace import Trace
from client.load.workload import Subject, Workload, draw

LEAST = 4
_MOST_AT_ONCE = 64


def enough(levels: Iterable[Arrivals]) -> int:
    """Requests that warm a server up for these loads: every connection of a closed loop is there before it counts, and
    batches have been as large."""
    return max([LEAST, *(level.concurrency for level in levels if isinstance(level, Closed))])


async def warm_up(
    workload: Workload, count: int, subjects: Sequence[Subject], seed: int, trace: Trace | None = None
) -> None:
    """The first `count` requests of the seed's sequence, or those of `trace`, to every subject; measured ones follow.

    Raises ClientError when one fails: the others would as well.
    """
    if not count:
        return
    arrivals = Closed(min(count, _MOST_AT_ONCE))
    if trace is None:
        trace = await draw(replace(workload, requests=count, cancelled=0.0), arrivals, subjects, seed=seed)
    for subject in subjects:
        warm = await run(subject.client, Load(trace, arrivals, subject.card.id, salt=subject.salt))
        if failed := next((record for record in warm.records if record.error), None):
            raise ClientError(f"{subject.card.id}: a warm-up request failed: {failed.error}")
