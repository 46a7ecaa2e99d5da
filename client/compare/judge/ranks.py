"""Rank test for paired values that come in rounds, and the correction for asking many questions at once. Pure.

The signed ranks are Wilcoxon's, over all rounds together. Requests of one round share what the machine did at that
time, so they are not independent of each other; rounds are. The test therefore looks at one number a round, the sum of
its signed ranks (the clustered signed-rank test of Rosner, Glynn and Lee, 2006), and asks with Student's t whether they
lie around 0: a reference that stays right with few rounds, where the normal one would be too sure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.compare.judge.student import mean

Floats = npt.NDArray[np.float64]


def signed_rank_p(rounds: Sequence[Floats]) -> float:
    """Two-sided probability of sums at least as far from 0 by chance alone; 1 with fewer than two rounds."""
    if len(rounds) < 2:
        return 1.0
    return mean([float(one.sum()) for one in signed_ranks(rounds)]).probability


def signed_ranks(rounds: Sequence[Floats]) -> list[Floats]:
    """Each value's rank by size among all that are not 0, with its sign; ties share the mean of their ranks."""
    values = np.concatenate(rounds)
    ranks = np.zeros(len(values))
    there = values != 0
    ranks[there] = _mean_ranks(np.abs(values[there])) * np.sign(values[there])
    return np.split(ranks, np.cumsum([len(one) for one in rounds])[:-1])


def _mean_ranks(sizes: Floats) -> Floats:
    _, place, count = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], dtype=np.float64)


def holm(probabilities: Sequence[float]) -> tuple[float, ...]:
    """Adjusted so that the chance of even one false alarm among them all stays below the level (Holm, 1979)."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    adjusted, highest = [1.0] * len(order), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, probabilities[index] * (len(order) - place)))
        adjusted[index] = highest
    return tuple(adjusted)
