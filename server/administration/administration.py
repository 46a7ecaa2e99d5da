"""What an operator does to a running server: load and unload models, see and end requests, forget prefixes, leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from server.administration.facts import ModelState, ModelStatus, RequestStatus, request_status
from server.administration.host import Host, LoadWish
from server.engine.request import Outcome
from server.engine.stream import EngineFault
from server.errors import (
    Cancelled,
    Draining,
    EngineDown,
    InvalidRequest,
    InvalidValue,
    ModelExists,
    ModelNotFound,
    NoModel,
    RequestNotFound,
    Unavailable,
    shown,
)
from server.generation import Generation
from server.models import split_spec
from server.service import LAST_WORDS_SECONDS, GenerationService, Phase

log = structlog.get_logger()
T = TypeVar("T")

REASON_CHARS = 500
MOST_FAILURES = 16  # loads that failed and are still told of
LOOK_SECONDS = 0.02


class LoadFailed(InvalidRequest):
    code = "load_failed"


class Administration:
    """`by` is the name of the operator's key, for the log. Belongs to the event loop's thread.

    What was begun goes on when the operator does not wait for it.
    """

    def __init__(self, service: GenerationService, host: Host) -> None:
        self._service = service
        self._host = host
        self._others: dict[str, ModelStatus] = {}  # that are not served: loading, unloading, failed
        self._one_load = asyncio.Lock()
        self._work: set[asyncio.Task[Any]] = set()

    def close(self) -> None:
        for task in self._work:
            task.cancel()

    # ------------------------------------------------------------------------------------------ models

    def models(self) -> list[ModelStatus]:
        """Every model that is known: those that are served, then the others."""
        ready = [ModelStatus(name, ModelState.READY, None, *self._host.load_of(name)) for name in self._service.models]
        return [*ready, *self._others.values()]

    async def load(self, wish: LoadWish, *, by: str, detached: bool = False) -> ModelStatus:
        """Serve one more model. Raises LoadFailed, and Unavailable when the server leaves first or its engine is down;
        `detached` tells of what happens after the beginning in `models` only."""
        self._require_open()
        wish.check()
        name, _ = split_spec(wish.model)
        other = self._others.get(name)
        if name in self._service.models or (other is not None and other.state is not ModelState.FAILED):
            raise ModelExists(name)
        log.info("loading", model=name, by=by)
        begun = self._others[name] = ModelStatus(name, ModelState.LOADING)
        loading = self._begin(self._load(name, wish))
        status = begun if detached else await self._outcome(loading)
        if status.state is ModelState.FAILED:
            raise LoadFailed(f"model {shown(name)} could not be loaded: {status.error}", param="model")
        return status

    async def unload(self, name: str, *, by: str, seconds: float | None = None) -> int:
        """Serve a model no more; returns how many of its requests were ended because they took longer than `seconds`.
        One that could not be loaded is told of no more. Raises Draining when the server leaves first."""
        if seconds is not None and not 0 <= seconds <= self._service.limits.request_seconds:
            raise InvalidValue.between("drain_seconds", seconds, 0, self._service.limits.request_seconds)
        if name not in self._service.models:
            self._forget_failure(name, by)
            return 0
        log.info("unloading", model=name, by=by)
        self._service.remove(name)  # now, so that whoever comes next finds it gone; its name is free when it is down
        self._others[name] = ModelStatus(name, ModelState.UNLOADING)
        bound = self._host.drain_seconds if seconds is None else seconds
        return await self._outcome(self._begin(self._unload(name, bound)))

    async def reset_prefix_cache(self, name: str | None, *, by: str) -> list[str]:
        """Forget the cached prefixes of one model, or of all for None; returns the names of these models."""
        models = list(self._service.models.values()) if name is None else [self._service.model(name)]
        log.info("forgetting prefixes", models=[model.name for model in models], by=by)
        try:
            for model in models:
                await self._host.reset(model)
        except EngineFault as fault:
            raise EngineDown("the engine does not run", retry_after=self._soon) from fault
        return [model.name for model in models]

    async def _load(self, name: str, wish: LoadWish) -> ModelStatus:
        async with self._one_load:
            failed = await self._bring_up(name, wish)
            if failed is not None:
                await asyncio.sleep(0)  # until then the loop holds the error, and through it all that was built
                await self._host.free()
                return failed
        del self._others[name]
        log.info("loaded", model=name)
        return ModelStatus(name, ModelState.READY)

    async def _bring_up(self, name: str, wish: LoadWish) -> ModelStatus | None:
        """Build a model and serve it; returns None when it is served, else how it failed."""
        try:
            model = await self._host.build(wish)
            if self._service.phase is Phase.DRAINING:  # only then: a build may make a step stand still for a while
                self._require_open()
            await self._host.bring_up(model)
        except Exception as error:
            failed = self._failed(name, error)
            log.warning("model could not be loaded", model=name, why=failed.error)
            log.debug("this is where", model=name, exc_info=error)
            if isinstance(error, Unavailable):  # no fault of the model
                raise
            return failed
        self._service.add(model)
        return None

    def _failed(self, name: str, error: Exception) -> ModelStatus:
        lines = str(error).splitlines() or [type(error).__name__]
        self._others.pop(name)  # so that it is the newest
        failed = self._others[name] = ModelStatus(name, ModelState.FAILED, lines[0][:REASON_CHARS])
        old = [name for name, other in self._others.items() if other.state is ModelState.FAILED]
        for name in old[:-MOST_FAILURES]:
            del self._others[name]
        return failed

    def _forget_failure(self, name: str, by: str) -> None:
        other = self._others.get(name)
        if other is None or other.state is not ModelState.FAILED:
            raise ModelNotFound(name, self._service.models)
        log.info("forgetting a failed load", model=name, by=by)
        del self._others[name]

    async def _unload(self, name: str, seconds: float) -> int:
        try:
            ended = await self._end_requests(name, seconds)
            await self._host.take_down(name)
        except EngineFault as fault:
            raise EngineDown("the engine does not run", retry_after=self._soon) from fault
        finally:
            del self._others[name]
        await self._host.free()
        log.info("unloaded", model=name, ended=ended)
        return ended

    async def _end_requests(self, name: str, seconds: float) -> int:
        await self._none_left(name, seconds)
        left = self._generations(name)
        for generation in left:
            message = f"model {name} was unloaded before this request was complete"
            generation.fail(Draining(message, retry_after=self._soon), Outcome.ERROR)
        await self._none_left(name, LAST_WORDS_SECONDS)
        return len(left)

    async def _none_left(self, name: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._generations(name) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)

    def _generations(self, name: str) -> list[Generation]:
        return [generation for generation in self._service.active if generation.model.name == name]

    # ------------------------------------------------------------------------------------------ requests

    def requests(self) -> list[RequestStatus]:
        """The requests in flight, oldest first."""
        now = self._service.clock()
        return sorted((request_status(generation, now) for generation in self._service.active), key=lambda r: -r.age)

    def cancel(self, id: str, *, by: str) -> None:
        """End a request; its caller is told."""
        found = [generation for generation in self._service.active if generation.id == id]
        if not found:
            raise RequestNotFound(id)
        log.info("cancelling", request=id, by=by)
        found[0].fail(Cancelled("the request was cancelled by the operator"), Outcome.CANCELLED)

    def drain(self, *, by: str) -> int:
        """Take no more calls, and leave when those in flight have ended; returns how many there are."""
        log.info("asked to leave", by=by)
        self._host.leave()
        return len(self._service.active)

    # ------------------------------------------------------------------------------------------ both

    def _require_open(self) -> None:
        """Raise why nothing can be served now, unless that is what a load would change."""
        refusal = self._service.refusal()
        if refusal is not None and not isinstance(refusal, NoModel):
            raise refusal

    @property
    def _soon(self) -> int:
        return self._service.limits.retry_after_seconds

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _outcome(self, work: asyncio.Task[T]) -> T:
        """What the work comes to; it goes on when nobody waits for that any more."""
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                message = "the server was shut down before this was complete"
                raise Draining(message, retry_after=self._soon) from None
            raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, or asyncio complains of one that nobody waited for
