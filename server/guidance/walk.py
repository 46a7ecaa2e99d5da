"""A few steps through a grammar, over the vocabulary it will be used with, before anybody's answer follows it.

Where an answer may begin tells little: a grammar that leaves many readings open costs more with every token.
"""

from __future__ import annotations

import time

import numpy as np
from llguidance import LLMatcher

from server.engine.constraint import members
from server.guidance.following import TOO_SLOW
from server.guidance.trial import GrammarRefused
from server.guidance.words import TOO_AMBIGUOUS, TOO_INTRICATE, own_words

STEPS = 16  # tokens
SECONDS = 0.25  # of the processor, for all of them; most grammars take a hundredth


def walk(matcher: LLMatcher, vocab: int, ends: frozenset[int]) -> None:
    """Move a matcher on by tokens here and there among those that may come. Raises GrammarRefused."""
    began = time.thread_time()
    for step in range(STEPS):
        allowed = members(np.frombuffer(matcher.compute_bitmask(), np.uint8), vocab)
        why = own_words(matcher.get_error()) if matcher.is_error() else ""
        if why in (TOO_AMBIGUOUS, TOO_INTRICATE):
            raise GrammarRefused(why)
        if time.thread_time() - began > SECONDS:
            raise GrammarRefused(TOO_SLOW)
        allowed[[end for end in ends if end < vocab]] = False
        choice = np.flatnonzero(allowed)
        if why or not len(choice) or not matcher.consume_token(int(choice[step * 7919 % len(choice)])):
            return
