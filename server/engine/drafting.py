"""Guessing what a request will say, so that one step can confirm several tokens. No torch here.

A guess changes no answer: at every drafted position the model's own token is drawn as it would have been, by seed and
number of the output, and a draft counts only where it is that token. A wrong one costs the time it took to compute.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

from server.engine.request import Request

log = logging.getLogger(__name__)

GRAMS = (4, 2)  # how many tokens must have stood together before; the longer are asked first
MOST_PLACES = 1 << 16  # where grams ended is kept for so many of them, four bytes each
CATCH_UP = 512  # tokens of the text looked at in one step
LONGEST_REST = 64  # steps


class Drafter(Protocol):
    """Guesses the tokens of one request. Whatever knows better than the text itself (a small model, further heads of
    the large one, whose guesses would come up with a StepResult) takes its place behind this one method."""

    def draft(self, most: int) -> Sequence[int]:
        """Up to `most` ids that may follow the tokens that the request has now; none for no guess. Called at most once
        a step, and not in every step."""
        ...


MakeDrafter = Callable[[Request], Drafter]


class PromptLookup:
    """Guesses that the text repeats itself: what followed its last tokens where they stood before, follows again.

    source, prompt and outputs:    a b c d [e f g] ... a b c d     drafts e f g
    a loop, taken further:         ... a b c a b c a b             drafts c a b c a b

    The last place of every gram is kept by hash and looked at before it is believed, so two that share a hash only
    forget the older. Memory does not grow, and a step looks at what is new: a long prompt is caught up with in several.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._text = [*request.source, *request.prompt]
        self._taken = 0  # outputs that are in the text
        self._indexed = 0  # grams that end before this position can be found
        places = min(MOST_PLACES, 1 << (len(self._text) + request.sampling.max_tokens).bit_length())
        self._ends = {size: array("i", bytes(4 * places)) for size in GRAMS}  # 0: nowhere

    def draft(self, most: int) -> Sequence[int]:
        text = self._text
        text += self._request.outputs[self._taken :]
        self._taken = len(self._request.outputs)
        self._index(min(len(text), self._indexed + CATCH_UP))
        for size, ends in self._ends.items():
            gram = text[-size:]
            end = ends[hash(tuple(gram)) % len(ends)]
            if end and text[end - size : end] == gram:
                period = len(text) - end
                return [text[end + i % period] for i in range(most)]
        return ()

    def _index(self, stop: int) -> None:
        text = self._text
        for size, ends in self._ends.items():
            for end in range(max(self._indexed, size), stop):
                ends[hash(tuple(text[end - size : end])) % len(ends)] = end
        self._indexed = max(self._indexed, stop)


class Drafting:
    """One request's drafter, and how far it is trusted.

    A draft is at most twice as long, and one, as what was right of the one before. After a draft of which nothing was
    right come 1, 2, 4, ... up to 64 steps without any, until a token is right again.
    """

    def __init__(self, drafter: Drafter, most: int) -> None:
        """most: tokens of one draft."""
        self._drafter: Drafter | None = drafter
        self._most = self._trusted = most
        self._rest, self._next_rest = 0, 1

    def draft(self, most: int) -> tuple[int, ...]:
        """What the request may say next, `most` tokens or fewer. A drafter that fails is not asked again."""
        if self._rest or self._drafter is None:
            self._rest = max(0, self._rest - 1)
            return ()
        most = min(most, self._trusted)
        try:
            return tuple(self._drafter.draft(most))[:most] if most > 0 else ()
        except Exception:
            log.warning("a drafter failed; its request goes on without", exc_info=True)
            self._drafter = None
            return ()

    def judge(self, accepted: int) -> None:
        """So many tokens of the last draft were right."""
        self._trusted = min(self._most, 2 * accepted + 1)
        if accepted:
            self._next_rest = 1
        else:
            self._rest, self._next_rest = self._next_rest, min(LONGEST_REST, 2 * self._next_rest)
