"""The composition root: service, metrics and both listeners on one event loop; readiness; drain."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import structlog

from server.config import Settings
from server.credentials import Credentials
from server.engine.loop import EngineFault, EngineLoop
from server.engine.request import Request, Sampling
from server.errors import Draining
from server.limits import Limits
from server.metrics import PrometheusObserver
from server.models import ServedModel
from server.service import GenerationService
from server.transport.reloading import keep_reloading
from server.transport.rest.application import rest_application
from server.transport.rest.listener import HttpListener
from server.transport.rest.routes import Routes
from server.transport.rpc.listener import RpcListener

log = structlog.get_logger()

LAST_WORDS_SECONDS = 0.7  # for answers that are written but not yet sent, and for the last step
FAST_EXIT_SECONDS = 1.5
READINESS_PERIOD = 0.25
WARM_UP_TEXT = "Once upon a time"
WARM_UP_TOKENS = 4

Build = Callable[[PrometheusObserver], Sequence[ServedModel]]


class StartupError(Exception):
    """A model does not run; the message is one line for the operator."""


class Application:
    """`listen`, then `serve`, then `drain` and `stop`, all on one event loop."""

    def __init__(self, settings: Settings, limits: Limits | None = None) -> None:
        """`limits` None: those of the settings."""
        limits = limits or settings.limits
        self.settings = settings
        self.observer = PrometheusObserver(version=importlib.metadata.version("dyno"))
        self.service = GenerationService(limits, self.observer)
        self.http_port = self.grpc_port = 0
        self.loop: EngineLoop | None = None
        credentials = Credentials(settings)
        routes = Routes(self.service, self.observer.exposition, self.state if settings.debug else None)
        rest = rest_application(routes, self.observer, credentials.authoriser)
        self._http = HttpListener(rest, limits, self.observer, credentials.identity)
        self._rpc = RpcListener(
            self.service,
            self.observer,
            credentials.authoriser,
            reflects=settings.reflects,
            connection_seconds=settings.grpc_connection_seconds,
            identity=credentials.identity,
        )
        self._files = credentials.files
        self._followers: list[asyncio.Task[None]] = []

    async def listen(self) -> None:
        """Bind both listeners: /livez answers, everything else is still refused. Raises AddressInUse."""
        host = self.settings.host
        self.http_port = await self._http.start(host, self.settings.port)
        self.grpc_port = await self._rpc.start(host, self.settings.grpc_port)
        self._followers = [asyncio.create_task(keep_reloading(self._files)), asyncio.create_task(self._tell_health())]

    async def serve(self, models: Sequence[ServedModel]) -> None:
        """Start the engines, warm every model up, become ready. Raises StartupError."""
        self.loop = EngineLoop([model.engine for model in models], stall_seconds=self.settings.stall_seconds)
        self.loop.start()
        for model in models:
            await warm_up(self.loop, model)
            layers = [(block, mixture.experts) for block, mixture in model.architecture.mixtures]
            self.observer.declare(model.card, layers, model.roofs)
        self.service.serve(models, self.loop)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Take nothing new; give what is in flight its time, less when told to hurry; then end it."""
        self.service.drain()
        self._rpc.tell_health(False, {})
        ends = [asyncio.create_task(self.service.quiet())]
        if hurry is not None:
            ends.append(asyncio.create_task(_until(hurry)))
        await asyncio.wait(ends, timeout=self.settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        self.service.abort_all(Draining("the server was shut down before this request was complete", retry_after=1))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.service.quiet(), LAST_WORDS_SECONDS)

    async def stop(self) -> None:
        """Close the listeners and stop the engines. Call it whatever happened before."""
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(self._http.stop(LAST_WORDS_SECONDS), self._rpc.stop(LAST_WORDS_SECONDS))
        if self.loop is not None:
            with contextlib.suppress(TimeoutError):  # a step that stands still is left behind
                await asyncio.wait_for(self.loop.stop(), LAST_WORDS_SECONDS)
        self.service.close()

    def state(self) -> dict[str, Any]:
        """What is held right now, for /debug/state."""
        return {
            "phase": self.service.phase,
            "calls": len(self.service.active),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "models": {name: self._model_state(name) for name in self.service.models},
        }

    def _model_state(self, name: str) -> dict[str, Any]:
        assert self.loop is not None
        groups = [asdict(group) for group in self.observer.groups(name)]
        return {"running": self.loop.running(name), "waiting": self.loop.waiting(name), "groups": groups}

    async def _tell_health(self) -> None:
        while True:
            models = dict.fromkeys(self.service.models, True)
            self._rpc.tell_health(self.service.refusal() is None, models)
            await asyncio.sleep(READINESS_PERIOD)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def warm_up(loop: EngineLoop, model: ServedModel) -> None:
    """One generation through the engine, before anybody is let in. Raises StartupError."""
    text = tuple(model.tokenizer.encode(WARM_UP_TEXT))[: max(1, model.longest - WARM_UP_TOKENS)]
    source, prompt = model.placed(text)
    sampling = Sampling(max_tokens=min(WARM_UP_TOKENS, model.longest - len(prompt)), temperature=0.0)
    request = Request("warm-up", prompt, sampling, time.monotonic(), cache_salt=b"warm-up", source=source)
    try:
        deltas = [delta async for delta in loop.submit(model.name, request)]
    except EngineFault as fault:
        raise StartupError(f"model {model.name} fails: {fault}") from None
    if deltas[-1].error:
        raise StartupError(f"model {model.name} fails: {deltas[-1].error}")


class Signals:
    """SIGTERM and SIGINT: the first one asks for a drain, the second one for a fast exit."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        if self.stop.is_set():
            self.hurry.set()
            self._loop.call_later(FAST_EXIT_SECONDS, os._exit, 1)
        self.stop.set()


async def run(settings: Settings, build: Build) -> int:
    """Serve until a signal; the exit code. Raises AddressInUse, StartupError and what `build` raises."""
    signals = Signals()
    app = Application(settings)
    try:
        await app.listen()
        announce(settings.host, app.http_port, app.grpc_port)
        models = await _build_unless_stopped(build, app.observer, signals.stop)
        if models is None:
            return 0
        await app.serve(models)
        log.info("ready", models=[model.name for model in models])
        await signals.stop.wait()
        log.info("draining", calls=len(app.service.active), seconds=settings.drain_seconds)
        await app.drain(signals.hurry)
        return 0 if app.service.alive else 1
    finally:
        await app.stop()


def announce(host: str, http_port: int, grpc_port: int) -> None:
    """One plain line for whoever started the process: with port 0 there is no other way to know."""
    host = f"[{host}]" if ":" in host else host
    print(f"listening http={host}:{http_port} grpc={host}:{grpc_port}", flush=True)


async def _build_unless_stopped(
    build: Build, observer: PrometheusObserver, stop: asyncio.Event
) -> Sequence[ServedModel] | None:
    """The models; None when a signal came first. A daemon thread, so that a half-built model holds nobody up."""
    loop = asyncio.get_running_loop()
    built: asyncio.Future[Sequence[ServedModel]] = loop.create_future()

    def work() -> None:
        try:
            models = build(observer)
        except BaseException as error:
            loop.call_soon_threadsafe(built.set_exception, error)
        else:
            loop.call_soon_threadsafe(built.set_result, models)

    threading.Thread(target=work, name="build", daemon=True).start()
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((built, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return await built if built.done() else None
