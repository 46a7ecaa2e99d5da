"""The thread that steps the engines, and its bridge to asyncio. With `stream`, the only file of the engine that knows
of either.

asyncio thread                          engine thread
  submit, cancel  ── commands ──▶  takes them in before a step
  Stream.__anext__ ◀── deltas ───  one call_soon_threadsafe a step, for all requests together
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from server.engine.ending import Delta
from server.engine.engine import Engine
from server.engine.patience import rest
from server.engine.request import Outcome, Request
from server.engine.standstill import Standstill
from server.engine.stream import EngineFault, Stream

log = logging.getLogger(__name__)
T = TypeVar("T")


class EngineLoop:
    """One thread steps all engines in turn and sleeps when there is no work.

    A step that takes longer than `stall_seconds`, and than a step of its model honestly may, counts as dead: the
    streams fail, nothing new is taken. Should it return after all, the requests it was about end as failed and the loop
    is alive again.
    """

    def __init__(self, engines: Sequence[Engine], *, stall_seconds: float = 10.0) -> None:
        self._engines = {engine.name: engine for engine in engines}
        self._stall_seconds = stall_seconds
        self._wake = threading.Condition()  # guards the next four; the thread sleeps on it
        self._commands: list[Callable[[], None]] = []
        self._unseen = dict.fromkeys(self._engines, 0)  # submitted, but not yet in the engine
        self._failures = 0  # of the observers of engines that are gone
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._stalled = Standstill()
        self._death: EngineFault | None = None
        # Below: only the asyncio thread.
        self._streams: dict[Request, Stream] = {}
        self._jobs: set[asyncio.Future[Any]] = set()
        self._watch: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the thread; call it on the asyncio loop that will read the streams."""
        self._asyncio = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End what is left as cancelled and the thread with it; a step that stands still is left behind."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), self._stall_seconds)
                self._thread.join()
        self._fail_all(EngineFault("the engine was stopped"))
        if self._watch is not None:
            self._watch.cancel()

    async def gone(self) -> None:
        """Wait until the thread has ended: it was stopped, or it died."""
        await self._gone.wait()

    @property
    def alive(self) -> bool:
        """Whether the thread runs and its step, if it is in one, does not stand still. From any thread."""
        return self._death is None and self._thread is not None and self._thread.is_alive() and not self._stalled

    def submit(self, engine: str, request: Request) -> Stream:
        """Hand a request to an engine. Call it on the asyncio thread. EngineFault when nothing can be served."""
        self._require_alive()
        target = self._engines[engine]
        stream = Stream(lambda outcome: self._post(lambda: target.cancel(request.id, outcome)))
        self._streams[request] = stream
        with self._wake:
            self._unseen[engine] += 1
        self._post(lambda: self._add(target, request))
        self._keep_watch()
        return stream

    async def call(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on the engine thread between two steps. EngineFault when nobody can do it."""
        self._require_alive()
        done: asyncio.Future[T] = self._asyncio.create_future()
        self._jobs.add(done)
        self._post(lambda: self._do(work, done))
        self._keep_watch()
        try:
            return await done
        finally:
            self._jobs.discard(done)

    async def add(self, engine: Engine) -> None:
        """Step this engine too from now on."""
        await self.call(lambda: self._take_on(engine))

    async def remove(self, engine: str) -> None:
        """End what this engine still has as cancelled, and step it no more. Nobody may submit to it meanwhile."""
        await self.call(lambda: self._let_go(engine))

    @property
    def empty(self) -> bool:
        """Whether there is no engine."""
        return not self._engines

    def waiting(self, engine: str) -> int:
        """Requests that were submitted and have no place in a batch yet."""
        return self._engines[engine].num_waiting + self._unseen[engine]

    def running(self, engine: str) -> int:
        return self._engines[engine].num_running

    @property
    def observer_failures(self) -> int:
        """How often an observer or a statistic failed, of all engines there ever were. From any thread."""
        with self._wake:
            return self._failures + sum(engine.observer_failures for engine in self._engines.values())

    # ------------------------------------------------------------------------------------------ the engine thread

    def _run(self) -> None:
        try:
            while self._take_in():
                self._round()
            for engine in self._engines.values():
                engine.cancel_all()
                self._step(engine)
        except BaseException as fault:  # whatever it is, the readers must hear of it
            self._death = EngineFault(f"the engine thread died: {type(fault).__name__}: {fault}")
            log.critical("the engine thread died", exc_info=True)
            try:
                self._close_books(str(self._death))
            finally:
                self._tell(self._fail_all, self._death)
        finally:
            self._tell(self._gone.set)

    def _close_books(self, why: str) -> None:
        """Nothing is run any more; what came in is still told to have ended."""
        with self._wake:
            commands, self._commands = self._commands, []
        for command in commands:
            with contextlib.suppress(Exception):
                command()
        for engine in self._engines.values():
            engine.give_up(why)

    def _take_in(self) -> bool:
        """Sleep until there is something to do and carry out the commands; False when it is time to stop."""
        with self._wake:
            self._wake.wait_for(self._has_work)
            commands, self._commands = self._commands, []
        with self._stalled.watched("work between two steps", self._stall_seconds):
            for command in commands:
                command()
        return not self._stopping

    def _do(self, work: Callable[[], T], done: asyncio.Future[T]) -> None:
        if done.done():  # whoever asked was told that it failed, or has left
            return
        try:
            result = work()
        except Exception as fault:
            self._tell(_unless_done, done, done.set_exception, fault)
        else:
            self._tell(_unless_done, done, done.set_result, result)

    def _take_on(self, engine: Engine) -> None:
        with self._wake:
            self._unseen[engine.name] = 0
        self._engines = {**self._engines, engine.name: engine}  # a new one: the asyncio thread reads the old one

    def _let_go(self, name: str) -> None:
        engine = self._engines[name]
        engine.cancel_all()
        self._step(engine)
        with self._wake:
            self._engines = {other: kept for other, kept in self._engines.items() if other != name}
            self._unseen.pop(name)
            self._failures += engine.observer_failures

    def _has_work(self) -> bool:
        return self._stopping or bool(self._commands) or any(engine.has_work for engine in self._engines.values())

    def _round(self) -> None:
        """A step of every engine that has work; where none of them could do anything, a rest."""
        engines = [engine for engine in self._engines.values() if engine.has_work]
        for engine in engines:
            self._step(engine)
        if not any(engine.ran for engine in engines):
            rest([future for engine in engines for future in engine.late])

    def _step(self, engine: Engine) -> None:
        if not engine.has_work:
            return
        with self._stalled.watched(f"a step of model {engine.name}", max(self._stall_seconds, engine.longest_step)):
            deltas = engine.step()
        if deltas:
            self._tell(self._deliver, deltas)

    def _add(self, engine: Engine, request: Request) -> None:
        try:
            engine.add(request)
        except Exception as fault:  # a request that cannot be added must not end the others
            self._tell(self._fail, request, EngineFault(f"{type(fault).__name__}: {fault}"))
        with self._wake:
            self._unseen[engine.name] -= 1

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the asyncio loop is closed: nobody is left to be told
            self._asyncio.call_soon_threadsafe(call, *arguments)

    # ----------------------------------------------------------------------------------------- the asyncio thread

    def _post(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _deliver(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            stream = self._streams.get(delta.request)
            if stream is not None:
                try:
                    stream.push(delta)
                except Exception as fault:  # the others' deltas must not be lost with it
                    stream.cancel(Outcome.ERROR)
                    self._fail(delta.request, EngineFault(f"{type(fault).__name__}: {fault}"))
                    continue
                if delta.stats is not None:
                    del self._streams[delta.request]

    def _fail(self, request: Request, fault: EngineFault) -> None:
        stream = self._streams.pop(request, None)
        if stream is not None:
            stream.fail(fault)

    def _fail_all(self, fault: EngineFault) -> None:
        for request, stream in list(self._streams.items()):
            stream.cancel(Outcome.ERROR)  # should the engine go on after all, then without this request
            self._fail(request, fault)
        for job in self._jobs:
            _unless_done(job, job.set_exception, fault)

    def _require_alive(self) -> None:
        if not self.alive or self._stopping:
            raise self._death or EngineFault("the engine stands still" if self._stalled else "the engine does not run")

    def _keep_watch(self) -> None:
        """Look again and again for a stall, as long as somebody waits for something."""
        if self._watch is None and (self._streams or self._jobs):
            self._watch = self._asyncio.call_later(self._stall_seconds / 4, self._look)

    def _look(self) -> None:
        self._watch = None
        if self._stalled:
            self._stalled.tell(len(self._streams))
            self._fail_all(EngineFault(f"a step takes longer than {self._stalled.limit:g} s"))
        self._keep_watch()


def _unless_done(future: asyncio.Future[Any], end: Callable[[Any], None], value: Any) -> None:
    """End a future with a result or a fault, unless whoever waited has left."""
    if not future.done():
        end(value)
