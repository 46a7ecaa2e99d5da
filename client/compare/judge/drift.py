"""Whether the machine stayed the same: blocks of one and the same architecture, compared with each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.load.record import Record

NOISY_RATIO = 1.1  # slowest block over fastest, where their requests do not explain it
_CAP = 1.5  # the same, whatever would explain it: noise among the requests is noise as well
_LEAST = 4  # requests of a block: the middle of fewer is a matter of chance


@dataclass(frozen=True, slots=True)
class Drift:
    """`medians`: of the time end to end, block by block; `spread`: the slowest block over the fastest by the time a
    token of the answer, 1 of fewer than two; `noisy`: it is above what blocks of the same machine should be."""

    medians: tuple[float, ...]
    spread: float
    noisy: bool


def drift(blocks: Sequence[Sequence[Record]]) -> Drift:
    """`blocks` in the order they were measured."""
    done = [[r for r in block if r.ok and r.total > 0] for block in blocks]
    medians = tuple(float(np.median([r.total for r in block])) for block in done if block)
    # By the token: how long the answers are is the load's doing, not the machine's.
    logs = [np.log([r.total / max(1, r.completion_tokens) for r in block]) for block in done if len(block) >= _LEAST]
    if len(logs) < 2:
        return Drift(medians, 1.0, False)
    centres = np.array([np.median(one) for one in logs])
    apart = float(centres.max() - centres.min())
    # Of a median: 1.25 times that of a mean, for what is about normal. Three of them on either end is no chance.
    within = 1.25 * float(np.median([one.std() / len(one) ** 0.5 for one in logs]))
    noisy = apart > np.log(_CAP) or (apart > np.log(NOISY_RATIO) and apart > 6 * within)
    return Drift(medians, float(np.exp(apart)), bool(noisy))
