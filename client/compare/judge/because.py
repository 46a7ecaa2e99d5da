"""Where a difference end to end comes from: the parts of each request's time, as client and servers tell them. Pure.

    intended    arrival   scheduled   first token          last token   end
    |<-outside->|<-queue->|<-prefill->|<------ decode ------>|<-outside->|

What a server calls `delayed` and `preempted` is time within prefill and decode, and never the same: a pass that the
request took part in is not lost to preemption. Both are taken out of the decode, where nearly all of it lies; what is
more than the whole decode was before the first token and is taken out of the prefill. So the parts add up exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.compare.judge.bootstrap import Floats, Interval
from client.compare.judge.student import mean
from client.load.record import Record, Run

PARTS = ("queue", "prefill", "decode", "others", "outside")


@dataclass(frozen=True, slots=True)
class Part:
    """Mean of other - baseline in seconds, with the 95 % interval over rounds; its ends are NaN of a single round."""

    name: str
    seconds: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Split:
    """The mean difference end to end of so many pairs, a round counting as much as any other, and its PARTS."""

    pairs: int
    rounds: int
    whole: Part
    parts: tuple[Part, ...]


def split(rounds: Sequence[tuple[Run, Run]]) -> Split | None:
    """Each pair is a round, (baseline, other); requests that either side failed or whose user may leave are no pairs.
    None where the servers do not tell."""
    told = [_differences(*map(_parts_of, pair)) for pair in rounds]
    kept = [one for one in told if len(one)]
    if not kept:
        return None
    means = np.array([one.mean(axis=0) for one in kept])  # (rounds, PARTS)
    parts = tuple(_part(name, column) for name, column in zip(PARTS, means.T, strict=True))
    return Split(sum(map(len, kept)), len(kept), _part("total", means.sum(axis=1)), parts)


def _part(name: str, values: Floats) -> Part:
    found = mean(values.tolist())
    return Part(name, found.value, Interval(*found.ends()))


def _differences(baseline: dict[int, tuple[float, ...]], other: dict[int, tuple[float, ...]]) -> Floats:
    """Other - baseline for every row that both have, (pairs, PARTS)."""
    return np.array([np.subtract(other[row], baseline[row]) for row in sorted(baseline.keys() & other.keys())])


def _parts_of(run: Run) -> dict[int, tuple[float, ...]]:
    """The parts of every request that is compared and told of, by row."""
    found = {r.row: parts(r) for r in run.records if r.ok and not r.may_leave}
    return {row: told for row, told in found.items() if told is not None}


def parts(record: Record) -> tuple[float, ...] | None:
    """Seconds of each of PARTS, their sum the client's time end to end; None where the server does not tell."""
    latency = record.facts.latency if record.facts is not None else None
    if latency is None:
        return None
    others = latency.delayed + latency.preempted
    decode = max(0.0, latency.decode - others)
    prefill = latency.prefill + latency.decode - decode - others
    return latency.queued, prefill, decode, others, record.total - latency.queued - latency.prefill - latency.decode
