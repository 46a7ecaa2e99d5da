"""A server with known delays must come back with those delays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from statistics import median

import pytest

from client.api import Client, GenerateRequest, Piece
from client.facts import Facts, Usage
from client.load.arrivals import Closed, Constant, Drawn, offsets
from client.load.judgement import held_up, warnings
from client.load.record import Record, Run
from client.load.runner import Bounds, Load, run
from client.load.statistics import gaps, summarise
from client.load.trace import Trace, TraceRow
from tests.client.fake_server import FakeServer

FIRST, GAP, TOKENS = 0.1, 0.03, 5
WHOLE = FIRST + (TOKENS - 1) * GAP
EARLY = 0.003  # what clocks may take off, in seconds
CLOSE = 0.02  # how far apart the clocks of the two ends may be on a busy machine


def load(count: int, arrivals: Drawn, **bounds: float) -> Load:
    rows = tuple(TraceRow(0.0, "once upon a time", TOKENS, seed=i) for i in range(count))
    return Load(Trace(rows).timed(offsets(arrivals, count, 0)), arrivals, "fake", bounds=Bounds(**bounds))


@pytest.fixture
def slow(fake: FakeServer) -> FakeServer:
    fake.behave(first_token=FIRST, gap=GAP)
    return fake


async def test_known_delays_come_back(client: Client, slow: FakeServer) -> None:
    result = await run(client, load(10, Constant(50.0)))
    summary = summarise(result.records, result.seconds)
    assert (summary.completed, summary.errors) == (10, 0)
    # A busy machine can only add to what the server waits; twice as much would be our mistake.
    assert FIRST - EARLY <= summary.first_token.p50 < 2 * FIRST
    assert GAP - EARLY <= summary.per_token.p50 < 2 * GAP
    assert GAP - EARLY <= summary.inter_token.mean < 2 * GAP
    assert WHOLE - EARLY <= summary.total.p50 < 2 * WHOLE
    # The last request is due after 9 / 50 s and takes as long as the others.
    assert 9 / 50 + WHOLE - EARLY <= result.seconds < 2 * (9 / 50 + WHOLE)
    assert summary.output_rate == pytest.approx(10 * TOKENS / result.seconds)
    assert summary.inter_token.count == 10 * (TOKENS - 1)
    assert result.trace_hash == load(10, Constant(50.0)).trace.hash


async def test_every_instant_is_the_servers_own(client: Client, slow: FakeServer) -> None:
    """A busy machine may hold up single ones; a clock of our own would be off by a gap at most of them."""
    result = await run(client, load(6, Closed(2)))
    ends = []
    for record in result.records:
        arrived, *words = slow.times[record.row]
        off = [(seen - record.sent) - (said - arrived) for seen, said in zip(record.arrivals, words, strict=True)]
        assert abs(median(off)) < CLOSE and max(map(abs, off)) < FIRST
        ends.append(record.end - record.arrivals[-1])
    assert median(ends) < CLOSE


@pytest.mark.usefixtures("slow")
async def test_open_loop_sends_when_due_whatever_is_in_flight(client: Client) -> None:
    result = await run(client, load(10, Constant(200.0)))
    assert [r.intended for r in result.records] == pytest.approx([i / 200 for i in range(10)])
    assert all(0 <= r.lag < FIRST for r in result.records)
    assert max(r.sent for r in result.records) < min(r.end for r in result.records)


async def test_open_loop_counts_the_wait_that_a_late_client_caused(client: Client) -> None:
    arrivals = Constant(1000.0)

    def hold(record: Record) -> None:
        if record.row == 0:
            time.sleep(0.1)  # the client itself stands still

    result = await run(client, load(60, arrivals), on_record=hold)
    late = max(result.records, key=lambda r: r.lag)
    assert late.lag > 0.04
    assert late.first_token is not None
    assert late.first_token >= late.lag


async def test_a_client_that_is_held_up_says_so_whatever_the_load(client: Client, fake: FakeServer) -> None:
    """In a closed loop nothing is sent late, so the schedule shows nothing."""
    fake.behave(first_token=0.02, gap=0.01)
    assert held_up(replace(await run(client, load(6, Closed(2))), held_up=0.03))
    loop = asyncio.get_running_loop()

    def stand_still() -> None:
        time.sleep(0.05)
        nonlocal timer
        timer = loop.call_later(0.01, stand_still)

    timer = loop.call_later(0.01, stand_still)
    result = await run(client, load(6, Closed(2)))
    timer.cancel()
    assert result.held_up > 0.03
    assert any("held up itself" in said for said in warnings(result))


@pytest.mark.usefixtures("slow")
async def test_closed_loop_keeps_so_many_in_flight(client: Client) -> None:
    result = await run(client, load(9, Closed(3)))
    most = max(_in_flight(result, record.sent) for record in result.records)
    assert most == 3
    assert result.seconds >= 3 * (WHOLE - EARLY)
    assert [r.row for r in result.records] == list(range(9))


def _in_flight(result: Run, instant: float) -> int:
    return sum(r.sent <= instant < r.end for r in result.records)


class Lumps(Client):
    """Two tokens at once, then three, half a second apart; the text of the last piece has no ids."""

    target = "lumps"

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        yield Piece(0, "a b ", (1, 2), id="call")
        await asyncio.sleep(0.05)
        yield Piece(0, "c d e ", (3, 4, 5), id="call")
        yield Piece(0, "f", (), Facts("length", Usage(1, 6)), "call")


async def test_every_token_has_an_instant_also_where_several_came_together() -> None:
    (record,) = (await run(Lumps(), load(1, Closed(1)))).records
    assert record.id == "call" and record.ok
    assert len(record.arrivals) == 6 and len(set(record.arrivals)) == 3
    between = gaps(record)
    assert [gap == 0 for gap in between] == [True, False, True, True, False] and between[1] >= 0.05 - EARLY
    assert summarise([record], 1.0).inter_token.count == 5


async def test_a_record_can_be_found_in_the_log_of_the_server(client: Client) -> None:
    result = await run(client, load(2, Closed(1)))
    assert [record.id for record in result.records] == ["r1", "r1"]


async def test_a_failed_request_is_counted_not_dropped(client: Client, fake: FakeServer) -> None:
    fake.behave(cut_after=2)
    result = await run(client, load(4, Closed(2)))
    assert len(result.records) == 4
    assert all("stream ended" in r.error for r in result.records)
    assert not result.interrupted


async def test_a_request_over_its_time_is_an_error(client: Client, fake: FakeServer) -> None:
    fake.behave(first_token=5.0)
    result = await run(client, load(2, Closed(2), request_seconds=0.05))
    assert [r.error for r in result.records] == ["no whole answer within 0.05 s"] * 2
    await asyncio.wait_for(fake.cancelled.wait(), 5)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("arrivals", [Closed(1), Constant(10.0)], ids=["closed", "open"])
async def test_nothing_is_sent_after_the_time_is_up(client: Client, arrivals: Drawn) -> None:
    result = await run(client, load(50, arrivals, seconds=0.5))
    assert 1 < len(result.records) < 8
    assert all(r.ok for r in result.records)


@pytest.mark.parametrize("arrivals", [Closed(2), Constant(20.0)], ids=["closed", "open"])
async def test_stopping_keeps_what_was_measured(client: Client, fake: FakeServer, arrivals: Drawn) -> None:
    fake.behave(first_token=0.02)
    stop = asyncio.Event()
    seen: list[Record] = []

    def watch(record: Record) -> None:
        seen.append(record)
        if len(seen) == 3:
            fake.behave(first_token=5.0)
            asyncio.get_running_loop().call_later(0.1, stop.set)

    result = await run(client, load(50, arrivals), stop=stop, on_record=watch)
    assert result.interrupted
    assert 3 <= len(result.records) < 10
    assert set(result.records) == set(seen)
    await asyncio.wait_for(fake.cancelled.wait(), 5)
