"""Whether the machine stayed the same: blocks of one and the same architecture, compared with each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.load.record import Record

NOISY_RATIO = 1.1  # slowest block over fastest


@dataclass(frozen=True, slots=True)
class Drift:
    """`medians`: of the time end to end, block by block; `spread`: the slowest block over the fastest, 1 of fewer than
    two; `noisy`: it is above what blocks of the same machine should be, and not chance among the requests."""

    medians: tuple[float, ...]
    spread: float
    noisy: bool


def drift(blocks: Sequence[Sequence[Record]]) -> Drift:
    """`blocks` in the order they were measured."""
    logs = [np.log([r.total for r in block if r.ok and r.total > 0]) for block in blocks]
    logs = [one for one in logs if len(one)]
    if len(logs) < 2:
        return Drift(tuple(float(np.exp(np.median(one))) for one in logs), 1.0, False)
    centres = np.array([np.median(one) for one in logs])
    spread = float(np.exp(centres.max() - centres.min()))
    # Of a median: 1.25 times that of a mean, for what is about normal. Three of them on either end is no chance.
    within = 1.25 * max(float(one.std()) / len(one) ** 0.5 for one in logs)
    noisy = spread > NOISY_RATIO and centres.max() - centres.min() > 6 * within
    return Drift(tuple(float(m) for m in np.exp(centres)), spread, bool(noisy))
