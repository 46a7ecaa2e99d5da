"""What a step gives a request, and when a request ends: before it begins, because it can never be served, or with a
token. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from server.engine.constraint import ConstraintFailed
from server.engine.isolation import describe
from server.engine.request import Outcome, Request, Routes, TokenLogprobs
from server.engine.stats import RequestStats
from server.engine.step import Failure, Row

log = logging.getLogger(__name__)


def refusal(request: Request, capacity: int, source_capacity: int) -> str:
    """Why a request cannot be served, "" when it can; the service refuses such requests first, in the user's words."""
    needed = len(request.prompt) + request.sampling.max_tokens
    if not request.prompt or request.sampling.max_tokens < 0:
        return f"{len(request.prompt)} prompt tokens and max_tokens={request.sampling.max_tokens}: nothing to do"
    if len(request.source) > source_capacity:
        return f"the source has {len(request.source)} tokens, there is room for {source_capacity}"
    if needed > capacity:
        return f"the request needs {needed} tokens of cache, there are {capacity}"
    return ""


def verdict(request: Request, token: int) -> tuple[Outcome | None, str]:
    """Whether `token`, the newest output, is the last: the outcome, and for a failure why.

    The first min_tokens outputs never end a request by their id. A stop condition is always obeyed, and so is a
    constraint after which nothing may follow; neither is asked about the token whose id has ended the request.
    """
    said, sampling = len(request.outputs), request.sampling
    if token in sampling.stop_ids and said > sampling.min_tokens:
        return Outcome.STOP, ""
    try:
        # Both are told of the token, whatever the other says.
        complete = request.constraint is not None and request.constraint.push(token)
        if (request.stop is not None and request.stop.push(token)) or complete:
            return Outcome.STOP, ""
    except ConstraintFailed as failed:
        return Outcome.REJECTED, str(failed)
    except Exception as fault:
        log.warning("a stop condition failed", exc_info=True)
        return Outcome.ERROR, describe(fault)
    return (Outcome.LENGTH if said >= sampling.max_tokens else None), ""


class Delta(NamedTuple):
    """What one step gave one request. A tuple for the same reason as Row: one is made for every token."""

    request: Request
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    stats: RequestStats | None = None  # set exactly on the last delta
    routes: Routes | None = None  # with stats: how every computed token was routed, cached prefix included
    error: str = ""  # why, when it failed


class Answer(NamedTuple):
    """What a step gave a request: its next tokens and, when it ends with them, how."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    outcome: Outcome | None = None
    error: str = ""
    accepted: int = 0  # drafts that the draws confirmed and that came before the end
    spoilt: bool = False  # its part of the cache is bad: nobody may find it again


def take(row: Row, draws: Sequence[tuple[int, TokenLogprobs | None]], failure: Failure | None) -> Answer:
    """Append to the request what was drawn after its last known token and, as long as each draft is what was drawn in
    its place, after the drafts. What stands behind a wrong draft or behind the end was never said.

    `failure` counts from its position on: one behind a wrong draft is nobody's.
    """
    if not draws:
        return Answer() if failure is None else Answer((), (), Outcome.ERROR, failure.why, spoilt=True)
    if row.request.sampling.max_tokens == 0 and failure is None:
        return Answer(outcome=Outcome.LENGTH)
    request, known = row.request, row.start + row.count - len(row.drafts)
    tokens: list[int] = []
    logprobs: list[TokenLogprobs | None] = []
    for (token, logprob), draft in zip(draws, (*row.drafts, None), strict=True):
        if failure is not None and failure.position < known + len(tokens):
            said = tuple(tokens), tuple(logprobs)
            return Answer(*said, Outcome.ERROR, failure.why, accepted=len(tokens), spoilt=True)
        request.outputs.append(token)
        tokens.append(token)
        logprobs.append(logprob)
        outcome, error = verdict(request, token)
        if outcome is not None or token != draft:
            break
    return Answer(tuple(tokens), tuple(logprobs), outcome, error, accepted=len(tokens) - 1)
