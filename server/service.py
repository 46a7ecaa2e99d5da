"""The one service behind both transports: validates, tokenises, submits, streams, and aborts in finally."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from enum import StrEnum
from typing import Protocol, TypeAlias

import structlog

from server.call import GenerateCall, Reading
from server.engine.loop import EngineLoop
from server.engine.request import Outcome, Request
from server.engine.stream import EngineFault
from server.errors import (
    DeadlineExceeded,
    Draining,
    EngineDown,
    Loading,
    MissingValue,
    ModelNotFound,
    NoModel,
    QueueFull,
    QueueTimeout,
    ServiceError,
)
from server.generation import Choice, Generation
from server.guidance.guides import Guides
from server.limits import Limits
from server.models import ServedModel
from server.preparation import Preparation, read, visible_text
from server.tally import outcome_of
from server.tenancy import EVERYBODY, Places, Tenant
from server.textwork import TextWork
from server.validation import check_text, check_token_ids, most_generations
from server.watching import RoutingSource, RoutingWatch

log = structlog.get_logger()

LAST_WORDS_SECONDS = 0.7  # for answers that are written but not yet sent, and for the last step


class Phase(StrEnum):
    """Closed set: it is a metric label."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"  # whatever it was about: its engine does not run


class Admissions(RoutingSource, Protocol):
    """Hears of calls that never reached the engine; of those that did, the engine tells."""

    def unserved(self, model: str | None, outcome: str, count: int, tenant: str) -> None:
        """`model` None: the call named no served model. `outcome`: one of server.tally.OUTCOMES. `count`: of answers
        that the call asked for. `tenant`: its name."""
        ...


Tracer: TypeAlias = Callable[[str, GenerateCall], AbstractContextManager[GenerateCall]]
"""Around every call, by its id: gives the call on, with its place in a trace."""


def untraced(id: str, call: GenerateCall) -> AbstractContextManager[GenerateCall]:
    """The Tracer of a server that traces nothing: requests keep the place that their callers told."""
    return nullcontext(call)


class GenerationService:
    """Begins without models, LOADING; `serve` opens it, `drain` closes it for new calls. `phase` is never DOWN."""

    def __init__(
        self,
        limits: Limits,
        admissions: Admissions,
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer = untraced,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.phase = Phase.LOADING
        self.models: dict[str, ServedModel] = {}
        self.since = 0  # seconds since the epoch
        self.active: set[Generation] = set()
        self._draining = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._admissions = admissions
        self._tracer = tracer
        self._loop: EngineLoop | None = None
        self._texts = TextWork(limits)
        self._guides = Guides(limits)
        self._prepare = Preparation(limits, self._texts, self._guides)
        self._places = Places(limits.retry_after_seconds)
        self.watch = RoutingWatch(limits, admissions, self.model, self._leaves, clock)

    # ------------------------------------------------------------------------------------------ life

    def serve(self, models: Sequence[ServedModel], loop: EngineLoop) -> None:
        """Take calls for these models from now on; `loop` runs their engines."""
        self.models = {model.name: model for model in models}
        self._loop = loop
        self.since = int(time.time())
        self.phase = Phase.READY

    def add(self, model: ServedModel) -> None:
        """Take calls for this one as well."""
        self.models = {**self.models, model.name: model}

    def remove(self, name: str) -> None:
        """Take no new calls for this one; those in flight go on."""
        self.models = {other: model for other, model in self.models.items() if other != name}

    def drain(self) -> None:
        """Take no new calls; those in flight go on."""
        self.phase = Phase.DRAINING
        self._draining.set()

    async def left(self) -> None:
        """Wait until it takes no new calls any more."""
        await self._draining.wait()

    async def quiet(self) -> None:
        """Wait until no call is in flight."""
        await self._quiet.wait()

    def abort_all(self, error: ServiceError) -> int:
        """End every call in flight as failed; their readers get `error`. Returns how many answers that cut off."""
        cut = sum(generation.running for generation in self.active)
        for generation in list(self.active):
            generation.fail(error, Outcome.ERROR)
        return cut

    def close(self) -> None:
        self._texts.close()
        self._guides.close()

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs and moves; true while loading, when there is none yet."""
        return self._loop is None or self._loop.alive

    @property
    def visible_phase(self) -> Phase:
        """What operators are shown: `phase`, or DOWN. From any thread."""
        return self.phase if self.alive else Phase.DOWN

    def refusal(self) -> ServiceError | None:
        """Why nothing can be served now; None when ready."""
        soon = self.limits.retry_after_seconds
        if self.phase is Phase.LOADING:
            return Loading("models are still loading", retry_after=soon)
        if self.phase is Phase.DRAINING:
            return Draining("the server is shutting down", retry_after=soon)
        if not self.alive:
            return EngineDown("the engine does not run", retry_after=soon)
        return None if self.models else NoModel("no model is loaded", retry_after=soon)

    # ------------------------------------------------------------------------------------------ models and text

    def model(self, name: str | None) -> ServedModel:
        """The model of that name; None means the only one."""
        self.require_ready()
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None:
            raise MissingValue(f"model is needed; served are {', '.join(self.models)}", param="model")
        if name not in self.models:
            raise ModelNotFound(name, self.models)
        return self.models[name]

    async def tokenize(self, name: str | None, text: str, param: str, reading: Reading) -> list[int]:
        """`param` is what the caller's transport calls the text."""
        model = self.model(name)
        check_text(param, text, self.limits)
        return await self._texts.run(len(text), lambda: read(model, text, reading))

    async def detokenize(self, name: str | None, ids: Sequence[int], param: str) -> str:
        model = self.model(name)
        check_token_ids(param, ids, model.vocab)
        return await self._texts.run(len(ids), lambda: model.tokenizer.decode(ids))

    # ------------------------------------------------------------------------------------------ generation

    @asynccontextmanager
    async def generate(self, id: str, call: GenerateCall) -> AsyncIterator[Generation]:
        """Run a call under this id, which nobody else may have. Raises ServiceError, here or while pieces are read.

        Leaving the context, however that happens, takes the call out of the engine.
        """
        with self._tracer(id, call) as call, self._place(call):
            generation = await self._admit(id, call)
            self.active.add(generation)
            self._quiet.clear()
            timer = asyncio.get_running_loop().call_later(self.limits.queue_seconds, self._end_waiting, generation)
            try:
                yield generation
            finally:
                timer.cancel()
                generation.close(self.clock())
                self.active.discard(generation)
                log.debug("call ended", id=id, model=generation.model.name, user=call.user, ended=generation.ended)
                if not self.active:
                    self._quiet.set()

    @contextmanager
    def _place(self, call: GenerateCall) -> Iterator[None]:
        """A place of the call's tenant for each generation, from before it is validated until it has ended."""
        count = most_generations(call, self.limits)
        with self.counting_refusals(call.model, count, call.tenant):
            self._places.enter(call.tenant, count, "n" if len(call.prompts) == 1 else "prompt")
        try:
            yield
        finally:
            self._places.leave(call.tenant, count)

    @contextmanager
    def counting_refusals(self, name: str | None = None, count: int = 1, tenant: Tenant = EVERYBODY) -> Iterator[None]:
        """A call that fails inside never reached the engine: it is counted here, for each of the answers it asked for
        as far as that is known."""
        try:
            yield
        except BaseException as error:
            only = next(iter(self.models)) if len(self.models) == 1 else None
            known = only if name is None else name if name in self.models else None
            self._admissions.unserved(known, outcome_of(error), count, tenant.name)
            raise

    async def _admit(self, id: str, call: GenerateCall) -> Generation:
        with self.counting_refusals(call.model, most_generations(call, self.limits), call.tenant):
            model = self.model(call.model)
            self._check_queue(model, 1)
            arrived = self.clock() if call.arrived is None else call.arrived
            requests = await self._prepare.requests(id, call, model, arrived)
            return self._submit(id, call, model, requests)

    def _submit(self, id: str, call: GenerateCall, model: ServedModel, requests: Sequence[Request]) -> Generation:
        """No await here: between the check of the queue and the last submission nobody else comes in."""
        if self.model(model.name) is not model:
            raise ModelNotFound(model.name, self.models)
        self._check_queue(model, len(requests))
        deadline = requests[0].deadline
        if deadline is not None and self.clock() >= deadline:
            raise DeadlineExceeded("the time for this request ran out before it could start")
        generation = Generation(id, int(time.time()), model, call, self.limits)
        try:
            for request in requests:
                generation.add(self._start(model, call, request))
        except BaseException as fault:
            generation.close(self.clock())
            if isinstance(fault, EngineFault):
                raise EngineDown("the engine does not run", retry_after=self.limits.retry_after_seconds) from fault
            raise
        return generation

    def _start(self, model: ServedModel, call: GenerateCall, request: Request) -> Choice:
        assert self._loop is not None
        text = visible_text(call, model, request.prompt, request.sampling.min_tokens)
        return Choice(request, self._loop.submit(model.name, request), text, shows_stop=call.sampling.include_stop)

    def _leaves(self, model: ServedModel) -> bool:
        return self.phase is Phase.DRAINING or self.models.get(model.name) is not model

    def require_ready(self) -> None:
        """Raise what `refusal` says."""
        refusal = self.refusal()
        if refusal is not None:
            raise refusal

    def _check_queue(self, model: ServedModel, more: int) -> None:
        assert self._loop is not None
        waiting = self._loop.waiting(model.name)
        if waiting + more > self.limits.queue:
            message = f"{waiting} requests wait already, {more} more exceed the queue of {self.limits.queue}"
            raise QueueFull(message, retry_after=self.limits.retry_after_seconds)

    def _end_waiting(self, generation: Generation) -> None:
        if not generation.started:
            message = f"waited {self.limits.queue_seconds:g} s in the queue"
            error = QueueTimeout(message, retry_after=self.limits.retry_after_seconds)
            generation.fail(error, Outcome.DEADLINE)
