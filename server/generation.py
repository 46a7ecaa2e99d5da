"""A call that was accepted: its choices running in the engine, and their deltas turned into pieces of text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog

from server.call import Finished, GenerateCall, PackedRoutes, Piece, PromptTokens, RoutingDetail, WholeChoice
from server.engine.ending import Delta
from server.engine.request import Outcome, Request
from server.engine.stats import RequestStats
from server.engine.stream import EngineFault, Stream
from server.errors import Cancelled, DeadlineExceeded, EngineDown, InternalError, ServiceError
from server.guidance.grammar import refused
from server.limits import Limits
from server.models import ServedModel
from server.text import VisibleText

log = structlog.get_logger()

DEADLINE_SLACK = 0.02  # seconds: a caller with a deadline of its own hangs up about when ours runs out


@dataclass(slots=True)
class Choice:
    """One continuation: its request in the engine and the text it has so far."""

    request: Request
    stream: Stream
    text: VisibleText
    index: int = 0
    ended: bool = False
    told: bool = False  # whether a piece of it has been made
    shows_stop: bool = False

    def read(self, delta: Delta) -> str:
        """The text of a delta. A token that ended the generation by its id is not shown, unless that was asked for."""
        tokens, stats = delta.tokens, delta.stats
        if stats is None:
            return "".join(map(self.text.push, tokens))
        ends = () if self.shows_stop else self.request.sampling.stop_ids
        if stats.outcome is Outcome.STOP and tokens and tokens[-1] in ends:
            tokens = tokens[:-1]
        text = "".join(map(self.text.push, tokens))
        return text if self.text.stopped else text + self.text.flush()


class Generation:
    """Iterate `pieces` once, or await `whole`; then `close`, whatever happened. Belongs to the event loop's thread."""

    def __init__(self, id: str, created: int, model: ServedModel, call: GenerateCall, limits: Limits) -> None:
        self.id = id
        self.created = created  # seconds since the epoch
        self.model = model
        self.call = call
        self._limits = limits
        self.choices: list[Choice] = []
        self._failure: ServiceError | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._arrivals: asyncio.Queue[tuple[Choice, Delta] | EngineFault] = asyncio.Queue()  # of several choices

    def add(self, choice: Choice) -> None:
        choice.index = len(self.choices)
        self.choices.append(choice)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; a prompt with several continuations counts once."""
        return sum(choice.request.num_prompt_tokens for choice in self.choices[:: self.call.n or 1])

    @property
    def ended(self) -> int:
        """How many choices came to their end."""
        return sum(choice.ended for choice in self.choices)

    @property
    def running(self) -> int:
        """How many choices the engine has not ended yet, whatever was read of the others."""
        return sum(not (choice.ended or choice.stream.ended) for choice in self.choices)

    @property
    def started(self) -> bool:
        """Whether the engine has computed anything for it."""
        return any(c.ended or c.request.started for c in self.choices)

    @property
    def goes_on(self) -> bool:
        """Whether `pieces` gives its next one, or ends, without waiting for the engine."""
        if self.ended == len(self.choices):
            return True
        return not self._arrivals.empty() if len(self.choices) > 1 else self.choices[0].stream.pending > 0

    @property
    def piled_up(self) -> bool:
        """Whether more waits for the reader of `pieces` than may; what would be merged into one counts as it is."""
        waiting = self._arrivals.qsize() + sum(choice.stream.pending for choice in self.choices)
        return waiting > self._limits.unsent_events

    async def pieces(self, merged: bool = False) -> AsyncIterator[Piece]:
        """Every piece of every choice, in order within a choice. Raises ServiceError when a choice cannot end well.

        `merged`: what has piled up for a reader slower than the engine comes as one piece.
        """
        if len(self.choices) > 1:
            async for choice, delta in self._interleaved(merged):
                yield self._piece(choice, delta)
            return
        choice = self.choices[0]
        try:
            async for delta in choice.stream:
                yield self._piece(choice, await _with_pending(choice, delta) if merged else delta)
        except EngineFault as fault:
            raise self._engine_down(fault) from None

    async def whole(self) -> list[WholeChoice]:
        """Every choice, complete, by index."""
        parts: list[list[Piece]] = [[] for _ in self.choices]
        async for piece in self.pieces(merged=True):
            parts[piece.index].append(piece)
        return [_join(pieces) for pieces in parts]

    def fail(self, error: ServiceError, outcome: Outcome) -> None:
        """End it now, counted as `outcome`; whoever reads the pieces gets `error`."""
        self._failure = error
        self._cancel(outcome)

    def close(self, now: float) -> None:
        """Nothing of this call stays in the engine: what has not ended is cancelled."""
        for reader in self._readers:
            reader.cancel()
        late = any(c.request.deadline is not None and now >= c.request.deadline - DEADLINE_SLACK for c in self.choices)
        self._cancel(Outcome.DEADLINE if late else Outcome.CANCELLED)

    def _cancel(self, outcome: Outcome) -> None:
        for choice in self.choices:
            if not choice.ended:
                choice.stream.cancel(outcome)

    async def _interleaved(self, merged: bool) -> AsyncIterator[tuple[Choice, Delta]]:
        """The choices' deltas as they come, until every choice has ended."""
        self._readers = [asyncio.create_task(_forward(choice, self._arrivals)) for choice in self.choices]
        while not all(choice.ended for choice in self.choices):
            arrived = [await self._arrivals.get()]
            while merged and not self._arrivals.empty():
                arrived.append(self._arrivals.get_nowait())
            together: dict[int, tuple[Choice, Delta]] = {}
            for one in arrived:
                if isinstance(one, EngineFault):
                    raise self._engine_down(one)
                choice, delta = one
                before = together.get(choice.index)
                together[choice.index] = (choice, delta if before is None else _joined(before[1], delta))
            for one in together.values():
                yield one

    def _piece(self, choice: Choice, delta: Delta) -> Piece:
        try:
            return self._read(choice, delta)
        except Exception as error:
            if isinstance(error, InternalError) or not isinstance(error, ServiceError):
                self._cancel(Outcome.ERROR)  # a fault of ours, and nobody's leaving, for every choice
            raise

    def _read(self, choice: Choice, delta: Delta) -> Piece:
        finished = None if delta.stats is None else self._finish(choice, delta, delta.stats)
        prompt = None if choice.told else self._prompt(choice)
        choice.told = True
        return Piece(choice.index, choice.read(delta), delta.tokens, delta.logprobs, finished, prompt)

    def _prompt(self, choice: Choice) -> PromptTokens | None:
        """The prompt of a choice of which something is known: it is computed by then, and its scores are complete."""
        if not self.call.tells_prompt:
            return None
        request = choice.request
        scored = request.sampling.prompt_logprobs is not None
        tokens = request.source or request.prompt
        return PromptTokens(tokens, (None, *request.scores) if scored else None)

    def _finish(self, choice: Choice, delta: Delta, stats: RequestStats) -> Finished:
        choice.ended = True
        if stats.outcome not in (Outcome.STOP, Outcome.LENGTH):
            raise self._unfinished(choice, stats.outcome, delta.error)
        routes, wishes = None, self.call.facts
        if wishes.routing is RoutingDetail.TOKENS and delta.routes is not None:
            most = self._limits.routing_bytes // len(self.choices)
            routes = PackedRoutes.of(delta.routes, wishes.routing_start, most)
        return Finished(stats.outcome, stats, routes)

    def _unfinished(self, choice: Choice, outcome: Outcome, why: str) -> ServiceError:
        if self._failure is not None:
            return self._failure
        constraint, guidance = choice.request.constraint, self.call.guidance
        if constraint is not None and constraint.failure is not None and guidance is not None:
            return refused(guidance, constraint.failure)
        if outcome is Outcome.DEADLINE:
            return DeadlineExceeded("the time for this request ran out before it was complete")
        if outcome is Outcome.CANCELLED:
            return Cancelled("the request was cancelled")
        log.error("request failed in the engine", id=self.id, model=self.model.name, why=why)
        return InternalError(self.id)

    def _engine_down(self, fault: EngineFault) -> ServiceError:
        log.debug("engine fault", id=self.id, model=self.model.name, why=str(fault))
        message = "the engine stopped while it worked on this request"
        return self._failure or EngineDown(message, retry_after=self._limits.retry_after_seconds)


async def _with_pending(choice: Choice, delta: Delta) -> Delta:
    """A delta with those that came after it and wait already."""
    while choice.stream.pending:
        delta = _joined(delta, await anext(choice.stream))
    return delta


def _joined(delta: Delta, more: Delta) -> Delta:
    """Two deltas of one request as one."""
    tokens, logprobs = delta.tokens + more.tokens, delta.logprobs + more.logprobs
    return Delta(more.request, tokens, logprobs, more.stats, more.routes, more.error)


async def _forward(choice: Choice, arrivals: asyncio.Queue[tuple[Choice, Delta] | EngineFault]) -> None:
    try:
        async for delta in choice.stream:
            arrivals.put_nowait((choice, delta))
    except EngineFault as fault:
        arrivals.put_nowait(fault)


def _join(pieces: Sequence[Piece]) -> WholeChoice:
    finished = pieces[-1].finished
    assert finished is not None, "a stream ended without its last delta"
    return WholeChoice(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        logprobs=tuple(logprob for piece in pieces for logprob in piece.logprobs),
        finished=finished,
        prompt=pieces[0].prompt,
    )
