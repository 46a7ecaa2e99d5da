"""The composition root: service, metrics and both listeners on one event loop; readiness; drain."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from server import process
from server.administration.administration import Administration
from server.administration.facts import ModelState
from server.config import Settings
from server.credentials import Credentials
from server.engine.loop import EngineLoop
from server.engine.stats import RequestStats
from server.errors import Draining
from server.limits import Limits
from server.metrics import PrometheusObserver
from server.models import ServedModel
from server.premises import Build, Premises
from server.requestlog import RequestLog
from server.service import LAST_WORDS_SECONDS, GenerationService, Phase, untraced
from server.transport.reloading import keep_reloading
from server.transport.rest.admin import AdminRoutes
from server.transport.rest.application import rest_application
from server.transport.rest.listener import HttpListener
from server.transport.rest.routes import Routes
from server.transport.rpc.listener import RpcListener

if TYPE_CHECKING:
    from server.tracing import Tracing

log = structlog.get_logger()

FAST_EXIT_SECONDS = 1.5
READINESS_PERIOD = 0.25
LAST_SCRAPE_SECONDS = 6.0  # more than the usual 5 from one scrape to the next


class Application:
    """`listen`, then `serve`, then `drain` and `stop`, all on one event loop."""

    def __init__(self, settings: Settings, build: Build, limits: Limits | None = None) -> None:
        """`limits` None: those of the settings."""
        limits = limits or settings.limits
        self.settings = settings
        version = importlib.metadata.version("dyno")
        self._requests = None if settings.request_log is None else RequestLog(settings.request_log)
        self._tracing = _tracing(settings, version)
        ended: list[Callable[[RequestStats], None]] = [] if self._requests is None else [self._requests]
        if self._tracing is not None:
            ended.append(self._tracing.ended)
        self.observer = PrometheusObserver(version=version, peers=settings.peer_metrics, ended=ended)
        tracer = untraced if self._tracing is None else self._tracing.calling
        self.service = GenerationService(limits, self.observer, tracer=tracer)
        self.observer.phase = lambda: self.service.visible_phase
        self.observer.losses = self._losses
        self.http_port = self.grpc_port = 0
        self.leaving = asyncio.Event()
        self._scraped = asyncio.Event()
        self.premises = Premises(settings, build, self.observer, self._leave)
        self.administration = Administration(self.service, self.premises)
        self.credentials = credentials = Credentials(settings)
        routes = Routes(self.service, self._exposition, self.state if settings.debug else None)
        admin = AdminRoutes(self.administration, limits)
        unguarded = settings.loopback and not settings.asks_for_keys
        door = self.observer.door("rest")
        rest = rest_application(routes, admin, door, credentials.authoriser, from_this_machine=unguarded)
        self._http = HttpListener(rest, limits, door, credentials.identity)
        self._rpc = RpcListener(
            self.service,
            self.administration,
            self.observer.door("grpc"),
            credentials.authoriser,
            reflects=settings.reflects,
            connection_seconds=settings.grpc_connection_seconds,
            identity=credentials.identity,
        )

        self._followers: list[asyncio.Task[None]] = []

    async def listen(self) -> None:
        """Bind both listeners: /livez answers, everything else is still refused. Raises AddressInUse."""
        host = self.settings.host
        self.http_port = await self._http.start(host, self.settings.port)
        self.grpc_port = await self._rpc.start(host, self.settings.grpc_port)
        self._followers = [
            asyncio.create_task(keep_reloading(self.credentials.files)),
            asyncio.create_task(self._keep_telling_health()),
        ]

    async def serve(self, models: Sequence[ServedModel]) -> None:
        """Start the engines, warm every model up, become ready. Raises StartupError."""
        loop = await self.premises.begin(models)
        self.service.serve(models, loop)
        self._followers.append(asyncio.create_task(self._leave_without(loop)))

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Take nothing new; give what is in flight its time, less when told to hurry; then end it, and wait for whoever
        scrapes the metrics to hear of that. `stop` follows."""
        hurry = hurry or asyncio.Event()
        self.service.drain()
        self._tell_health()
        self._rpc.leave()
        await _first(self.service.quiet(), _until(hurry), seconds=self.settings.drain_seconds)
        message = "the server was shut down before this request was complete"
        cut = self.service.abort_all(Draining(message, retry_after=self.service.limits.retry_after_seconds))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.service.quiet(), LAST_WORDS_SECONDS)
        log.info("drained", cut_off=cut)
        if cut and self._scraped.is_set():
            self._scraped.clear()
            await _first(_until(self._scraped), _until(hurry), seconds=LAST_SCRAPE_SECONDS)

    async def stop(self) -> None:
        """Close the listeners and stop the engines. Call it whatever happened before."""
        for follower in self._followers:
            follower.cancel()
        self.administration.close()
        await asyncio.gather(self._http.stop(LAST_WORDS_SECONDS), self._rpc.stop(LAST_WORDS_SECONDS))
        await self.premises.end(LAST_WORDS_SECONDS)
        self.service.close()
        for kept in (self._requests, self._tracing):
            if kept is not None:
                await asyncio.to_thread(kept.close)

    def state(self) -> dict[str, Any]:
        """What is held right now, for /debug/state."""
        return {
            "phase": self.service.visible_phase,
            "calls": len(self.service.active),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "models": {name: self._model_state(name) for name in self.service.models},
        }

    def _model_state(self, name: str) -> dict[str, Any]:
        running, waiting = self.premises.load_of(name)
        groups = [asdict(group) for group in self.observer.groups(name)]
        return {"running": running, "waiting": waiting, "groups": groups}

    def _losses(self) -> dict[str, int]:
        """What was to be told of requests and was lost; called on a thread of a scrape."""
        return {
            "request_log": 0 if self._requests is None else self._requests.lost,
            "spans": 0 if self._tracing is None else self._tracing.lost,
            "observer": 0 if self.premises.loop is None else self.premises.loop.observer_failures,
        }

    def _exposition(self, accept: str) -> tuple[Callable[[], bytes], str]:
        """As the observer has it. What is begun before `stop` is answered."""
        self._scraped.set()
        return self.observer.exposition(accept)

    def _leave(self) -> None:
        """What an operator asks for: from now on nothing new is taken; `run` does the rest."""
        self.service.drain()
        self.leaving.set()

    async def _leave_without(self, loop: EngineLoop) -> None:
        """A thread that has died does not come back: whoever watches the process shall replace it."""
        await loop.gone()
        log.critical("leaving: the engine thread is gone")
        self.leaving.set()

    def _tell_health(self) -> None:
        known = (ModelState.LOADING, ModelState.READY, ModelState.UNLOADING)
        models = self.administration.models()
        ready = {model.name: model.state is ModelState.READY for model in models if model.state in known}
        self._rpc.tell_health(self.service.refusal() is None, ready)

    async def _keep_telling_health(self) -> None:
        while True:
            self._tell_health()
            await asyncio.sleep(READINESS_PERIOD)


def _tracing(settings: Settings, version: str) -> Tracing | None:
    """Imported only where it is wanted: the libraries take a third of a second."""
    if settings.otlp_endpoint is None:
        return None
    from server.tracing import Tracing

    return Tracing(settings.otlp_endpoint, version)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _first(*waits: Coroutine[Any, Any, None], seconds: float) -> None:
    """Until one of them has ended, or so many seconds are over."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


class Signals:
    """SIGTERM and SIGINT: the first one asks for a drain, the second one for a fast exit."""

    def __init__(self, stop: asyncio.Event) -> None:
        """`stop` is set by the first one, and by whoever else wants the end."""
        self.stop = stop
        self._asked = False
        self.hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        if self._asked:
            self.hurry.set()
            self._loop.call_later(FAST_EXIT_SECONDS, os._exit, 1)
        self._asked = True
        self.stop.set()


async def run(settings: Settings, build: Build) -> int:
    """Serve until a signal, an operator's word or the engine's death; the exit code. Raises AddressInUse, StartupError
    and what `build` raises."""
    app = Application(settings, build)
    signals = Signals(app.leaving)
    try:
        await app.listen()
        announce(settings.host, app.http_port, app.grpc_port)
        built = app.premises.build_all()
        if not await _unless_stopped(built, signals.stop):
            return 0
        models = await built
        process.settle()
        await app.serve(models)
        log.info("ready", models=[model.name for model in models])
        del models, built  # or they would outlive their unloading
        await signals.stop.wait()
        log.info("draining", calls=len(app.service.active), seconds=settings.drain_seconds)
        await app.drain(signals.hurry)
        return 0 if app.service.alive else 1
    finally:
        await app.stop()
        if app.service.phase is Phase.DRAINING:
            log.info("stopped")


def announce(host: str, http_port: int, grpc_port: int) -> None:
    """One plain line for whoever started the process: with port 0 there is no other way to know."""
    host = f"[{host}]" if ":" in host else host
    with contextlib.suppress(OSError):  # nobody reads it
        print(f"listening http={host}:{http_port} grpc={host}:{grpc_port}", flush=True)


async def _unless_stopped(built: asyncio.Future[Sequence[ServedModel]], stop: asyncio.Event) -> bool:
    """Wait for the models; False when a signal came first."""
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((built, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return built.done()
