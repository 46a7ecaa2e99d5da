"""What requests change of their logits before a token is drawn: penalties, biases, end tokens that come too early."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.sampling import Edits
from server.engine.request import Request
from server.engine.seen import Seen
from server.engine.step import Pick


def only_likeliest(picks: Sequence[Pick]) -> bool:
    """Whether every pick takes its likeliest token, with nothing that changes which that is."""
    return all(
        pick.request.sampling.temperature <= 0
        and pick.request.constraint is None
        and pick.known is None
        and not _edited(pick)
        for pick in picks
    )


def edits_of(picks: Sequence[Pick]) -> Edits:
    """The changes that every pick makes to single logits."""
    added, repeated = _Places(), _Places()
    for row, pick in enumerate(picks):
        sampling = pick.request.sampling
        if not _edited(pick):
            continue
        if sampling.logit_bias:
            added.take(row, *zip(*sampling.logit_bias, strict=True))
        if _ends_barred(pick):
            added.take(row, sorted(sampling.stop_ids), -np.inf)
        if _counted(pick) or sampling.repetition_penalty != 1:
            _penalise(added, repeated, row, pick)
    return Edits(*added.arrays(), *repeated.arrays())


class _Places:
    """Places (row, token) with a number at each, gathered from picks."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def take(self, row: int, tokens: Sequence[int] | np.ndarray, numbers: Sequence[float] | np.ndarray | float) -> None:
        ids = np.asarray(tokens, np.int64)
        self._parts.append((np.full(len(ids), row), ids, np.broadcast_to(np.asarray(numbers, np.float32), len(ids))))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        rows, tokens, numbers = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        return rows, tokens, numbers


def _edited(pick: Pick) -> bool:
    sampling = pick.request.sampling
    return bool(sampling.logit_bias) or _ends_barred(pick) or _counted(pick) or sampling.repetition_penalty != 1


def _ends_barred(pick: Pick) -> bool:
    """Whether it is too early for an end token; a constraint bars them itself (`batch.barred`)."""
    sampling = pick.request.sampling
    return bool(sampling.stop_ids) and pick.number < sampling.min_tokens and pick.request.constraint is None


def _counted(pick: Pick) -> bool:
    sampling = pick.request.sampling
    return pick.number > 0 and bool(sampling.presence_penalty or sampling.frequency_penalty)


def _penalise(added: _Places, repeated: _Places, row: int, pick: Pick) -> None:
    sampling = pick.request.sampling
    tokens, times = _seen(pick.request).after(pick.request.outputs, pick.drafted)
    if _counted(pick):
        said = times > 0
        less = sampling.presence_penalty + sampling.frequency_penalty * times[said]
        added.take(row, tokens[said], -less)
    if sampling.repetition_penalty != 1:
        repeated.take(row, tokens, sampling.repetition_penalty)


def _seen(request: Request) -> Seen:
    if request.seen is None:
        request.seen = Seen(request.prompt)
    return request.seen
