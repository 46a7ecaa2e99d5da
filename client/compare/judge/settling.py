"""Whether rounds are long enough to be of a steady load, and begin as they go on: an empty server is quicker, a cold
one slower. Pure.

`client.load.steady` judges one run, and on a round of some dozens of requests it often sees a start that is chance.
Here the beginnings of all rounds are asked together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log

import numpy as np

from client.compare.judge.student import mean
from client.compare.plan.schedule import SURE_ROUNDS
from client.load.arrivals import Arrivals, Closed
from client.load.record import Record, Run

_SHARE = 10  # the first of so many parts
_LEAST = 4  # requests in it
_APART, _LEVEL = 1.1, 0.01  # less is not worth a word; one false alarm in a hundred

_TURNS = 4  # of each user
LEAST_SECONDS = 5.0


def one_burst(arrivals: Arrivals, requests: int) -> bool:
    """Whether a large part of a closed loop's requests is sent at the very beginning, all at once to an idle server."""
    return isinstance(arrivals, Closed) and requests < _TURNS * arrivals.concurrency


def shortest(runs: Sequence[Run]) -> float:
    """Seconds of the shortest whole round; infinite where there is none."""
    return min((run.seconds for run in runs if run.records and not run.interrupted), default=inf)


def start(rounds: Sequence[Sequence[Record]]) -> float:
    """The middle time end to end of a round's first tenth over that of the rest; 1 where no difference is shown, or
    there are too few rounds or requests to show one."""
    apart = [one for records in rounds if (one := _apart(records)) is not None]
    if len(apart) < SURE_ROUNDS:
        return 1.0
    found = mean(apart)
    return exp(found.value) if found.probability < _LEVEL and abs(found.value) > log(_APART) else 1.0


def _apart(records: Sequence[Record]) -> float | None:
    """How far a round's beginning is from its rest, in the log of the time a token of the answer; None of too few."""
    done = [r for r in sorted(records, key=lambda r: r.intended) if r.ok and r.total > 0]
    first = len(done) // _SHARE
    if first < _LEAST:
        return None
    logs = np.log([r.total / max(1, r.completion_tokens) for r in done])
    return float(np.median(logs[:first]) - np.median(logs[first:]))
