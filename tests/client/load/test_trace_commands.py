"""`dyno trace`, and what of it a load sends."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from client.api import Client
from client.cli import app
from client.load.arrivals import Recorded
from client.load.recording import record
from client.load.runner import Load, run
from client.load.statistics import summarise
from client.load.trace import Trace, TraceError, TraceRow
from tests.client.fake_server import FakeServer


def dyno(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["trace", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def test_a_trace_is_made_and_shown(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    flags = ("--prompt-tokens", "uniform:8:16", "--output-tokens", "log-normal:8:0.5:20")
    said = dyno("make", out, "--requests", 40, "--rate", 4, "--tenants", 2, "--cancelled", 0.5, "--vocab", 50, *flags)
    trace = Trace.read(out)
    assert len(trace.rows) == 40
    assert {len(row.prompt) for row in trace.rows} <= set(range(8, 17))
    assert {row.tenant for row in trace.rows} == {"tenant-0", "tenant-1"}
    assert 8 < sum(row.cancel_after is not None for row in trace.rows) < 32
    assert trace.hash in said
    assert "4.00 requests/s" in dyno("show", out)
    again = tmp_path / "again.jsonl"
    dyno("make", again, "--requests", 40, "--rate", 4, "--tenants", 2, "--cancelled", 0.5, "--vocab", 50, *flags)
    assert Trace.read(again).hash == trace.hash


def test_families_share_their_beginning(tmp_path: Path) -> None:
    dyno(
        "make",
        tmp_path / "t",
        "--rate",
        1,
        "--prompts",
        "shared",
        "--families",
        2,
        "--prompt-tokens",
        20,
        "--share",
        0.5,
    )
    assert len({row.prompt[:10] for row in Trace.read(tmp_path / "t").rows}) == 2


@pytest.mark.parametrize(
    "flags", [(), ("--rate", "1", "--concurrency", "2"), ("--rate", "0"), ("--rate", "1", "--prompt-tokens", "many")]
)
def test_a_trace_that_cannot_be_made_is_refused(tmp_path: Path, flags: tuple[str, ...]) -> None:
    dyno("make", tmp_path / "t", *flags, code=2)
    assert not (tmp_path / "t").exists()


def test_a_public_trace_is_imported(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"timestamp": 0, "input_length": 9, "output_length": 5, "hash_ids": [1]}\n')
    dyno("import", "mooncake", tmp_path / "in", tmp_path / "out")
    assert [(len(row.prompt), row.max_tokens) for row in Trace.read(tmp_path / "out").rows] == [(9, 5)]


def logged(**changes: object) -> bytes:
    line = {
        "time": "2026-01-01T00:00:10.000+00:00",
        "model": "m",
        "choice": 0,
        "outcome": "length",
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "cached_tokens": 6,
        "latency": {"total": 2.0},
    }
    return orjson.dumps(line | changes) + b"\n"


def test_a_request_log_becomes_a_trace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    late = logged(time="2026-01-01T00:00:12.500+00:00", outcome="cancelled", latency={"total": 0.5}, prompt_tokens=12)
    left_out = logged(outcome="error") + logged(outcome="deadline", completion_tokens=0) + logged(choice=1)
    log.write_bytes(late + logged(user="b") + left_out)
    first, second = record(log, vocab=50).rows
    assert (first.offset, second.offset) == (0.0, 4.0)
    assert (len(first.prompt), first.max_tokens, first.cancel_after) == (10, 4, None)
    assert (len(second.prompt), second.max_tokens, second.cancel_after) == (12, 5, 0.5)
    assert (first.tenant, second.tenant) == ("b", "")
    assert first.prompt[:6] == second.prompt[:6]
    assert first.prompt[6:] != second.prompt[6:10]
    dyno("record", log, tmp_path / "out", "--vocab", 50)
    assert Trace.read(tmp_path / "out").rows == (first, second)
    dyno("record", log, tmp_path / "out", "--vocab", 50, "--skip", 1)
    (left,) = Trace.read(tmp_path / "out").rows
    assert (left.offset, left.max_tokens) == (0.0, 5)
    dyno("record", log, tmp_path / "out", "--vocab", 50, "--skip", 2, code=2)
    assert "one of a lighter load" in " ".join(dyno("record", "--help").split())


def test_a_trace_that_is_not_there_is_told() -> None:
    dyno("show", "nowhere.jsonl", code=2)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"{\n", "line 1 .* is not JSON"),
        (b"{}\n", "line 1 .* has no 'time'"),
        (logged(time="noon"), "line 1 .*noon"),
        (logged() + logged(model="n"), r"several models \(m, n\)"),
        (b"", "no request of any model"),
    ],
)
def test_what_is_no_request_log_is_told(tmp_path: Path, log: bytes, said: str) -> None:
    (tmp_path / "log").write_bytes(log)
    with pytest.raises(TraceError, match=said):
        record(tmp_path / "log", vocab=50)


async def test_users_leave_and_tenants_are_told(client: Client, fake: FakeServer) -> None:
    fake.behave(first_token=0.02, gap=0.05)
    rows = (TraceRow(0.0, "once", 3, tenant="a"), TraceRow(0.0, "twice", 200, seed=1, tenant="b", cancel_after=0.2))
    result = await run(client, Load(Trace(rows), Recorded(), "fake"))
    stayed, left = result.records
    assert stayed.ok
    assert left.cancelled
    assert not left.ok
    assert left.error == ""
    assert 0.15 < left.total < 0.6
    summary = summarise(result.records, result.seconds)
    assert (summary.completed, summary.errors, summary.cancelled) == (1, 0, 1)
    assert {asked["user"] if isinstance(asked, dict) else asked.user for _, asked in fake.seen} == {"a", "b"}
