"""The requests before the measured ones: nothing that is measured should pay for a first time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.api import ClientError
from client.load.arrivals import Closed
from client.load.runner import Load, run
from client.load.workload import Subject, Workload, draw

_AT_ONCE = 4


async def warm_up(workload: Workload, count: int, subjects: Sequence[Subject], seed: int) -> None:
    """The first `count` requests of the seed's sequence to every subject; measured ones follow after them.

    Raises ClientError when one fails: the others would as well.
    """
    if not count:
        return
    arrivals = Closed(_AT_ONCE)
    trace = await draw(replace(workload, requests=count), arrivals, subjects, seed=seed)
    for subject in subjects:
        warm = await run(subject.client, Load(trace, arrivals, subject.card.id))
        if failed := next((record for record in warm.records if not record.ok), None):
            raise ClientError(f"{subject.card.id}: a warm-up request failed: {failed.error}")
