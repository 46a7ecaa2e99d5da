"""Where the order of two architectures turns as the load grows. Pure.

Only between two loads at which a difference is shown, and the other way round: loads that were not measured, or at
which none is shown, say nothing, and beyond the lowest and the highest nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from client.compare.judge.words import Verdict


@dataclass(frozen=True, slots=True)
class Turn:
    """Places of two loads with contrary verdicts, and none shown between them. `below`: there are lower ones than
    `last`, and all say the same; `above`: likewise those higher than `first`."""

    last: int
    first: int
    below: bool
    above: bool


def turns(verdicts: Sequence[Verdict]) -> tuple[Turn, ...]:
    """Where the verdicts on one time turn; there is one for every load, the lowest first."""
    shown = [place for place, verdict in enumerate(verdicts) if verdict.sure]
    return tuple(
        Turn(last, first, _all(verdicts[:last], verdicts[last]), _all(verdicts[first + 1 :], verdicts[first]))
        for last, first in pairwise(shown)
        if verdicts[last] != verdicts[first]
    )


def _all(verdicts: Sequence[Verdict], one: Verdict) -> bool:
    return bool(verdicts) and set(verdicts) == {one}
