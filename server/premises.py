"""Where the models of this process live: built beside everything, warmed up, stepped, counted, and taken down again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from server.administration.host import LoadWish
from server.config import Settings
from server.engine.loop import EngineLoop
from server.engine.request import Request, Sampling
from server.engine.stream import EngineFault
from server.metrics import PrometheusObserver
from server.models import ServedModel

T = TypeVar("T")

WARM_UP_TEXT = "Once upon a time"
WARM_UP_TOKENS = 4


class Build(Protocol):
    """The models of some settings; called on a thread of its own. measures: whether nothing else runs, so that the
    machine may be measured."""

    def __call__(
        self, settings: Settings, observer: PrometheusObserver, *, measures: bool = True
    ) -> Sequence[ServedModel]: ...


class StartupError(Exception):
    """A model does not run; the message is one line for the operator."""


class Premises:
    """The Host of administration. `begin` comes first; `leave` is called when an operator wants the process to end."""

    def __init__(
        self, settings: Settings, build: Build, observer: PrometheusObserver, leave: Callable[[], None]
    ) -> None:
        self.leave = leave
        self.drain_seconds = settings.drain_seconds
        self.loop: EngineLoop | None = None
        self._settings = settings
        self._build = build
        self._observer = observer

    @property
    def running(self) -> EngineLoop:
        """The loop, once there is one."""
        assert self.loop is not None, "nothing is served yet"
        return self.loop

    def build_all(self) -> asyncio.Future[Sequence[ServedModel]]:
        """The models of the settings, built on a thread."""
        return beside("build", lambda: self._build(self._settings, self._observer))

    async def begin(self, models: Sequence[ServedModel]) -> EngineLoop:
        """Start the engines and warm every model up. Raises StartupError."""
        self.loop = EngineLoop([model.engine for model in models], stall_seconds=self._settings.stall_seconds)
        self.loop.start()
        for model in models:
            await self._warm(model)
        return self.loop

    async def end(self, seconds: float) -> None:
        """Stop the engines; a step that stands still for so long is left behind."""
        if self.loop is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.loop.stop(), seconds)

    # ------------------------------------------------------------------------------------------ for the operator

    async def build(self, wish: LoadWish) -> ServedModel:
        """Build one more model as the settings have it, but for the wish."""
        named = {"scale": wish.scale, "seed": wish.seed, "cache_tokens": wish.cache_tokens}
        given = {name: value for name, value in named.items() if value is not None}
        changed = self._settings.model_copy(update={"model": (wish.model,), **given})
        alone = self.running.empty
        (model,) = await beside("load", lambda: self._build(changed, self._observer, measures=alone))
        return model

    async def bring_up(self, model: ServedModel) -> None:
        # What the first passes have to build, and what may go wrong in them, is kept from the thread of the others.
        await beside("rehearsal", lambda: rehearse(model))
        try:
            await self.running.add(model.engine)
            await self._warm(model)
        except BaseException:
            with contextlib.suppress(EngineFault, KeyError):  # KeyError: it was never taken on
                await self.running.remove(model.name)
            raise

    async def take_down(self, model: str) -> None:
        await self.running.remove(model)
        self._observer.forget(model)

    async def free(self) -> None:
        await beside("free", _free)

    async def reset(self, model: ServedModel) -> None:
        await self.running.call(model.engine.reset_prefix_cache)

    def load_of(self, model: str) -> tuple[int, int]:
        return self.running.running(model), self.running.waiting(model)

    async def _warm(self, model: ServedModel) -> None:
        """Warm up, and count from then on."""
        await warm_up(self.running, model)
        layers = [(block, mixture.experts) for block, mixture in model.architecture.mixtures]
        engine = model.engine
        self._observer.declare(model.card, layers, model.roofs, engine.block_tokens, engine.groups)


def rehearse(model: ServedModel) -> None:
    """One generation on this thread, before the engine is given to another. Raises StartupError."""
    engine = model.engine
    engine.add(_first_request(model))
    while engine.has_work:
        deltas = engine.step()
    if deltas[-1].error:
        raise StartupError(f"model {model.name} fails: {deltas[-1].error}")


async def warm_up(loop: EngineLoop, model: ServedModel) -> None:
    """One generation through the engine, before anybody is let in. Raises StartupError."""
    request = _first_request(model)
    try:
        deltas = [delta async for delta in loop.submit(model.name, request)]
    except EngineFault as fault:
        raise StartupError(f"model {model.name} fails: {fault}") from None
    if deltas[-1].error:
        raise StartupError(f"model {model.name} fails: {deltas[-1].error}")


def _first_request(model: ServedModel) -> Request:
    text = tuple(model.tokenizer.encode(WARM_UP_TEXT))[: max(1, model.longest - WARM_UP_TOKENS)]
    source, prompt = model.placed(text)
    sampling = Sampling(max_tokens=min(WARM_UP_TOKENS, model.longest - len(prompt)), temperature=0.0)
    return Request("warm-up", prompt, sampling, time.monotonic(), cache_salt=b"warm-up", source=source)


def beside(name: str, work: Callable[[], T]) -> asyncio.Future[T]:
    """What `work` gives, done on a daemon thread: when the process ends, nobody waits for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(end: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(told, end, value)

    def told(end: Callable[[Any], None], value: object) -> None:
        thread.join()  # it is on its way out; until then it holds what it worked on
        if not done.done():
            end(value)

    def run() -> None:
        try:
            tell(done.set_result, work())
        except BaseException as fault:
            tell(done.set_exception, fault)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return done


def _free() -> None:
    """Only a process that has torch has memory of torch's to give back."""
    gc.collect()
    if "torch" in sys.modules:
        from server.engine.release import release

        release()
