"""From a form of the answer to the constraints of requests: tried out first, compiled beside everything else."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from llguidance import LLMatcher, LLTokenizer

from model.tokenizer import Tokenizer
from server.call import Guidance
from server.engine.constraint import Constraint
from server.errors import QueueFull
from server.guidance.grammar import grammar_of, refused
from server.guidance.matcher import GrammarConstraint
from server.guidance.sandbox import Sandbox
from server.guidance.trial import STACK_BYTES, GrammarRefused, compiled
from server.guidance.vocabulary import vocabulary_of
from server.limits import Limits
from server.models import ServedModel

REMEMBERED = 32  # compiled grammars of one tokenizer
LARGE_VOCABULARY = 16384
"""From this size on, the next set of tokens takes longer to find than it takes to have another thread find it."""
IDLE_SECONDS = 2.0  # how long the process that tries grammars out waits for the next


class Guides:
    """Made on the event loop's thread and used from there; what takes time runs on two threads of its own."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._compiling = _deep_thread("compile")
        self._following = _deep_thread("follow")
        self._sandbox = Sandbox(limits.guidance_seconds)
        self._known: WeakKeyDictionary[Tokenizer, _Compiled] = WeakKeyDictionary()
        self._pending = 0
        self._idle: asyncio.TimerHandle | None = None

    async def constraints(
        self, guidance: Guidance, model: ServedModel, count: int, *, endless: bool
    ) -> Sequence[Constraint]:
        """One for each of `count` requests. `endless`: an end token is allowed only where nothing else is.

        Raises InvalidValue for a form that cannot be used, QueueFull when too many wait to be compiled.
        """
        if self._pending >= self._limits.queue:
            raise QueueFull(f"{self._pending} forms wait to be compiled already", retry_after=1)
        self._pending += 1
        try:
            job = self._compiling.submit(self._matchers, guidance, model, count)
            matchers, large = await asyncio.wrap_future(job)
        except GrammarRefused as error:
            raise refused(guidance, str(error)) from None
        finally:
            self._pending -= 1
            self._let_rest()
        aside, ends = self._following if large else None, model.tokenizer.eos_ids
        return [GrammarConstraint(matcher, ends, endless=endless, aside=aside) for matcher in matchers]

    def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._sandbox.interrupt()
        self._compiling.submit(self._sandbox.close)
        self._compiling.shutdown(wait=True)
        self._following.shutdown(wait=True)

    def _let_rest(self) -> None:
        """End the process unless it is asked again soon."""
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(IDLE_SECONDS, self._compiling.submit, self._sandbox.close)

    # ------------------------------------------------------------------------------------------ the compiling thread

    def _matchers(self, guidance: Guidance, model: ServedModel, count: int) -> tuple[list[LLMatcher], bool]:
        """Fresh matchers, and whether the vocabulary is large."""
        known = self._known.get(model.tokenizer)
        if known is None:
            known = self._known[model.tokenizer] = _Compiled(vocabulary_of(model.tokenizer, model.vocab))
        matcher = known.matcher(grammar_of(guidance), self._sandbox)
        return [matcher.deep_copy() for _ in range(count)], known.vocabulary.vocab_size > LARGE_VOCABULARY


class _Compiled:
    """The grammars compiled last for one vocabulary; each is the beginning of matchers, and never moved on itself."""

    def __init__(self, vocabulary: LLTokenizer) -> None:
        self.vocabulary = vocabulary
        self._matchers: OrderedDict[str, LLMatcher] = OrderedDict()

    def matcher(self, grammar: str, sandbox: Sandbox) -> LLMatcher:
        """Raises GrammarRefused."""
        found = self._matchers.pop(grammar, None)
        if found is None:
            why = sandbox.verdict(grammar)
            if why is not None:
                raise GrammarRefused(why)
            found = compiled(self.vocabulary, grammar)
        self._matchers[grammar] = found
        while len(self._matchers) > REMEMBERED:
            self._matchers.popitem(last=False)
        return found


def _deep_thread(name: str) -> ThreadPoolExecutor:
    """One thread with more stack than the trial of a grammar has: what was deep enough there is no matter here."""
    before = threading.stack_size(4 * STACK_BYTES)
    try:
        pool = ThreadPoolExecutor(1, name)
        pool.submit(int).result()  # starts it
    finally:
        threading.stack_size(before)
    return pool
