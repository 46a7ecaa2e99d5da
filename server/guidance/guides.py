"""From a form of the answer to the constraints of requests: tried out first, compiled beside everything else."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from llguidance import LLMatcher

from model.tokenizer import Tokenizer
from server.call import Guidance
from server.engine.constraint import Constraint
from server.errors import QueueFull
from server.guidance.following import Allowance, Follower
from server.guidance.grammar import grammar_of, refused
from server.guidance.matcher import GrammarConstraint
from server.guidance.sandbox import Sandbox
from server.guidance.trial import STACK_BYTES, GrammarRefused, compiled
from server.guidance.vocabulary import vocabulary_of
from server.guidance.walk import walk
from server.guidance.words import own_words
from server.limits import Limits
from server.models import ServedModel

REMEMBERED = 32  # compiled grammars of one tokenizer
DEEP_STACK = 4 * STACK_BYTES  # more than the trial of a grammar has: what was deep enough there is no matter here
IDLE_SECONDS = 2.0  # how long the process that tries grammars out waits for the next


class Guides:
    """Made on the event loop's thread and used from there; what takes time runs on two threads of its own."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._compiling = _deep_thread("compile")
        self._follower = Follower(DEEP_STACK)
        self._sandbox = Sandbox(limits)
        self._known: WeakKeyDictionary[Tokenizer, _Compiled] = WeakKeyDictionary()
        self._pending = 0
        self._idle: asyncio.TimerHandle | None = None

    async def constraints(
        self, guidance: Guidance, model: ServedModel, count: int, *, endless: bool
    ) -> Sequence[Constraint]:
        """One for each of `count` requests. `endless`: an end token is allowed only where nothing else is.

        Raises InvalidValue for a form that cannot be used, QueueFull when too many wait to be compiled, FormsUntried
        where none can be tried out.
        """
        if self._pending >= self._limits.queue:
            message = f"{self._pending} forms wait to be compiled already"
            raise QueueFull(message, retry_after=self._limits.retry_after_seconds)
        self._pending += 1
        try:
            job = self._compiling.submit(self._matchers, guidance, model, count)
            matchers, first = await asyncio.wrap_future(job)
        except GrammarRefused as error:
            raise refused(guidance, own_words(str(error))) from None
        finally:
            self._pending -= 1
            self._let_rest()
        allowance, ends = Allowance(*self._limits.guidance_step_seconds), model.ends
        return [
            GrammarConstraint(m, first, ends, endless=endless, follower=self._follower, allowance=allowance)
            for m in matchers
        ]

    def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._sandbox.interrupt()
        self._compiling.submit(self._sandbox.close)
        self._compiling.shutdown(wait=True)
        self._follower.close()

    def _let_rest(self) -> None:
        """End the process unless it is asked again soon."""
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(IDLE_SECONDS, self._compiling.submit, self._sandbox.close)

    # ------------------------------------------------------------------------------------------ the compiling thread

    def _matchers(self, guidance: Guidance, model: ServedModel, count: int) -> tuple[list[LLMatcher], bytes]:
        """Fresh matchers, and what may come first."""
        known = self._known.get(model.tokenizer)
        if known is None:
            known = self._known[model.tokenizer] = _Compiled(model.tokenizer, model.vocab)
        matcher, first = known.beginning(grammar_of(guidance), self._sandbox)
        return [matcher.deep_copy() for _ in range(count)], first


class _Compiled:
    """The grammars compiled last for one vocabulary; each is the beginning of matchers, and never moved on itself."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self.vocabulary, self._ends = vocabulary_of(tokenizer, vocab), tokenizer.eos_ids
        self._matchers: OrderedDict[str, tuple[LLMatcher, bytes]] = OrderedDict()

    def beginning(self, grammar: str, sandbox: Sandbox) -> tuple[LLMatcher, bytes]:
        """A matcher, and what may come first. Raises GrammarRefused."""
        found = self._matchers.pop(grammar, None)
        if found is None:
            why = sandbox.verdict(grammar)
            if why is not None:
                raise GrammarRefused(why)
            matcher = compiled(self.vocabulary, grammar)
            walk(matcher.deep_copy(), self.vocabulary.vocab_size, self._ends)
            found = matcher, matcher.compute_bitmask()
        self._matchers[grammar] = found
        while len(self._matchers) > REMEMBERED:
            self._matchers.popitem(last=False)
        return found


def _deep_thread(name: str) -> ThreadPoolExecutor:
    """One thread with a deep stack."""
    before = threading.stack_size(DEEP_STACK)
    try:
        pool = ThreadPoolExecutor(1, name)
        pool.submit(int).result()  # starts it
    finally:
        threading.stack_size(before)
    return pool
