"""Sends a trace to a server and records what comes back. Open loop by the intended instants, or closed loop."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf

from client.api import Client, ClientError, Piece, RoutingDetail, StreamCut
from client.facts import Facts
from client.load.arrivals import Arrivals, Closed
from client.load.pulse import Pulse
from client.load.record import Record, Run
from client.load.salt import Salt
from client.load.trace import Trace, TraceRow


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a load may last. Nothing is sent after `seconds`; a request that takes over `request_seconds` fails."""

    seconds: float = inf
    request_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, how and where."""

    trace: Trace
    arrivals: Arrivals
    model: str = ""
    routing: RoutingDetail | None = RoutingDetail.LAYERS
    bounds: Bounds = field(default_factory=Bounds)
    salt: Salt | None = None  # put on each row as it is sent; the trace, its hash and what is paired stay the same


OnRecord = Callable[[Record], None]


async def run(
    client: Client, load: Load, *, stop: asyncio.Event | None = None, on_record: OnRecord | None = None
) -> Run:
    """Send every row of the trace; the run's records are those that were answered or failed.

    Setting `stop` ends the run early: requests in flight are cancelled at the server and left out, the rest is kept.
    Errors of single requests are in their records; nothing is raised for them.
    """
    return await _Runner(client, load, stop or asyncio.Event(), on_record or _ignore).run()


def _ignore(record: Record) -> None:
    pass


class _Answer:
    """What came, however it was cut into pieces, as a short hash: made at the end, as a load pays for every token."""

    def __init__(self) -> None:
        self.id = ""  # of the request, as the server calls it
        self._ids: list[int] = []
        self._texts: list[str] = []

    def add(self, piece: Piece) -> None:
        self.id = self.id or piece.id
        self._ids += piece.token_ids
        self._texts.append(piece.text)

    def __str__(self) -> str:
        if self._ids:
            return f"i{_short(b''.join(token.to_bytes(4, signed=True) for token in self._ids))}"
        return f"t{_short(''.join(self._texts).encode())}"


def _short(whole: bytes) -> str:
    return hashlib.sha256(whole).hexdigest()[:12]


class _Runner:
    """One run: its clock, its records, its way to stop."""

    def __init__(self, client: Client, load: Load, stop: asyncio.Event, on_record: OnRecord) -> None:
        self._client = client
        self._load = load
        self._stop = stop
        self._on_record = on_record
        self._records: list[Record] = []
        self._zero = 0.0

    async def run(self) -> Run:
        started, cpu = datetime.now(UTC), time.process_time()
        self._zero = time.perf_counter()
        pulse = Pulse()
        sending = asyncio.create_task(self._closed() if isinstance(self._load.arrivals, Closed) else self._open())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((sending, stopping), return_when=asyncio.FIRST_COMPLETED)
            whole = sending.done()
        finally:
            pulse.stop()
            stopping.cancel()
            sending.cancel()
            await asyncio.wait((sending, stopping))
        if not sending.cancelled() and (error := sending.exception()):
            raise error
        return self._result(started, time.process_time() - cpu, pulse.late, interrupted=not whole)

    def _result(self, started: datetime, cpu: float, held_up: float, *, interrupted: bool) -> Run:
        records = tuple(sorted(self._records, key=lambda r: r.row))
        seconds = max((r.end for r in records), default=0.0) - min((r.intended for r in records), default=0.0)
        return Run(
            target=self._client.target,
            model=self._load.model,
            arrivals=self._load.arrivals,
            trace_hash=self._load.trace.hash,
            records=records,
            seconds=seconds,
            started=started.isoformat(timespec="seconds"),
            client_cpu=cpu,
            interrupted=interrupted,
            salt=self._load.salt.word if self._load.salt else "",
            held_up=held_up,
        )

    async def _open(self) -> None:
        """Each row at its instant, whatever is in flight."""
        async with asyncio.TaskGroup() as group:
            for index, row in enumerate(self._load.trace.rows):
                if row.offset > self._load.bounds.seconds:
                    return
                await asyncio.sleep(max(0.0, row.offset - self._now()))
                while self._now() < row.offset:  # noqa: ASYNC110 - a timer may ring early (client/loop.py)
                    await asyncio.sleep(0)
                group.create_task(self._send(index, row, row.offset))

    async def _closed(self) -> None:
        """So many workers, each with one request in flight, until the trace is used up."""
        rows = iter(enumerate(self._load.trace.rows))
        assert isinstance(self._load.arrivals, Closed)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._load.arrivals.concurrency, len(self._load.trace.rows))):
                group.create_task(self._work(rows))

    async def _work(self, rows: Iterator[tuple[int, TraceRow]]) -> None:
        for index, row in rows:
            if self._now() > self._load.bounds.seconds:
                return
            await self._send(index, row, self._now())

    async def _send(self, index: int, row: TraceRow, intended: float) -> None:
        """One request, to its end; recorded unless the run is stopped under it."""
        sent = self._now()
        arrivals: list[float] = []
        facts, error, left, answer = None, "", False, _Answer()
        limit = self._load.bounds.request_seconds
        leaves = row.cancel_after is not None and row.cancel_after < limit
        try:
            async with asyncio.timeout(row.cancel_after if leaves else limit):
                facts = await self._receive(row, arrivals, answer)
        except TimeoutError:
            left = leaves
            error = "" if leaves else f"no whole answer within {limit:g} s"
        except ClientError as failure:
            error = failure.message
        end = self._now()
        record = Record(
            index,
            intended,
            sent,
            tuple(arrivals),
            end,
            facts,
            error,
            cancelled=left,
            answer=str(answer),
            may_leave=row.cancel_after is not None,
            id=answer.id,
        )
        self._records.append(record)
        self._on_record(record)

    async def _receive(self, row: TraceRow, arrivals: list[float], answer: _Answer) -> Facts:
        facts = None
        sent = self._load.salt.on(row) if self._load.salt else row
        request = sent.request(self._load.model, self._load.routing)
        async with aclosing(self._client.generate(request)) as pieces:
            async for piece in pieces:
                arrivals += [self._now()] * (len(piece.token_ids) or bool(piece.text))
                answer.add(piece)
                facts = piece.facts or facts
        if facts is None:
            raise StreamCut("the stream ended without its facts")
        return facts

    def _now(self) -> float:
        return time.perf_counter() - self._zero
