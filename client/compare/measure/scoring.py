"""Scores held text on all architectures: the same passages on each, so that they are pairs. One that cannot be scored
has a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from client.compare.measure.quality import MOST_SECONDS, PASSAGES, Quality, ScoringError, quality
from client.compare.measure.sides import Side
from client.compare.measure.supply import tokens_of
from client.load.prompts import passages
from client.load.workload import Subject, WorkloadError


def check(bounds: Sequence[int], subjects: Sequence[Subject]) -> None:
    """Raises WorkloadError where a model cannot hold texts as long as the bounds ask for."""
    for subject in subjects:
        context = subject.card.context
        if bounds and context and bounds[-1] > context:
            raise WorkloadError(f"{subject.said} holds {context} tokens; quality asks for texts of {bounds[-1]}")


async def score(
    sides: Sequence[Side], asked: Collection[int], bounds: Sequence[int]
) -> tuple[tuple[Quality | None, ...], tuple[str, ...]]:
    """The quality of each architecture, None where it was not asked or could not be scored; and why it could not."""
    places = await _fitting([side.subject for i, side in enumerate(sides) if i in asked and side.http])
    told = [await _scored(side, places, bounds) if i in asked else (None, "") for i, side in enumerate(sides)]
    return tuple(found for found, _ in told), tuple(why for _, why in told)


async def _fitting(subjects: Sequence[Subject]) -> list[int]:
    """The passages that every model can hold, as far as it tells."""
    texts = enumerate(passages()[:PASSAGES])
    return [place for place, text in texts if all([await _holds(text, subject) for subject in subjects])]


async def _holds(text: str, subject: Subject) -> bool:
    """True also where the server does not answer well: scoring then says what is wrong with it."""
    try:
        async with asyncio.timeout(MOST_SECONDS):
            return not subject.card.context or await tokens_of(text, subject) <= subject.card.context
    except (TimeoutError, LookupError, TypeError):
        return True


async def _scored(side: Side, places: Sequence[int], bounds: Sequence[int]) -> tuple[Quality | None, str]:
    if not side.http:
        return None, "text is scored over REST, and only its gRPC address is known"
    if not places:
        return None, "no passage fits the context of every model"
    try:
        return await quality(side.http, side.subject.card.id, places, bounds), ""
    except ScoringError as error:
        return None, str(error)
