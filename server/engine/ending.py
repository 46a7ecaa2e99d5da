"""When a request ends: before it begins, because it can never be served, or with a token. No torch here."""

from __future__ import annotations

import logging

from server.engine.isolation import describe
from server.engine.request import Outcome, Request

log = logging.getLogger(__name__)


def refusal(request: Request, capacity: int, source_capacity: int) -> str:
    """Why a request cannot be served, "" when it can; the service refuses such requests first, in the user's words."""
    needed = len(request.prompt) + request.sampling.max_tokens
    if not request.prompt or request.sampling.max_tokens < 1:
        return f"{len(request.prompt)} prompt tokens and max_tokens={request.sampling.max_tokens}: nothing to do"
    if len(request.source) > source_capacity:
        return f"the source has {len(request.source)} tokens, there is room for {source_capacity}"
    if needed > capacity:
        return f"the request needs {needed} tokens of cache, there are {capacity}"
    return ""


def verdict(request: Request, token: int) -> tuple[Outcome | None, str]:
    """Whether `token`, the newest output, is the last: the outcome, and for an error why.

    The first min_tokens outputs never end a request by their id. A stop condition is always obeyed; it is not asked
    about the token whose id has ended the request.
    """
    said, sampling = len(request.outputs), request.sampling
    if token in sampling.stop_ids and said > sampling.min_tokens:
        return Outcome.STOP, ""
    if request.stop is not None:
        try:
            if request.stop.push(token):
                return Outcome.STOP, ""
        except Exception as fault:
            log.warning("a stop condition failed", exc_info=True)
            return Outcome.ERROR, describe(fault)
    return (Outcome.LENGTH if said >= sampling.max_tokens else None), ""
