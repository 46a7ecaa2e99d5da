"""What is refused is in the log, by the id that its caller was told, and never so much that it fills a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.calllog import BURST, CallLog, Who
from tests.fakes import Clock
from tests.server.callers import Refused
from tests.server.doors import KEYS, caller_as, channel_of, header, until, write_keys
from tests.server.kit import running

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "xyzzy-plugh"


def told(logs: list[Any], event: str) -> list[dict[str, Any]]:
    return [entry for entry in logs if entry["event"] == event]


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_who_was_refused_and_why_is_told(transport: str, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys", "alice", "prom", max_concurrent=1)
    async with running(api_keys_file=keys) as server:
        with structlog.testing.capture_logs() as logs:
            for name in (None, "prom"):
                async with caller_as(transport, server, name) as caller:
                    with pytest.raises(Refused):
                        await caller.whole(prompt=SECRET)
            async with caller_as(transport, server, "alice") as caller:
                for wish in ({"temperature": -1}, {"model": SECRET}):
                    with pytest.raises(Refused):
                        await caller.whole(prompt=SECRET, **wish)
                await caller.whole(prompt=SECRET, max_tokens=1)
    codes = [entry["code"] for entry in told(logs, "not answered")]
    assert codes == (["401", "403"] if transport == "rest" else ["UNAUTHENTICATED", "PERMISSION_DENIED"])
    assert [entry.get("tenant") for entry in told(logs, "not answered")] == [None, "prom"]
    for entry in [*told(logs, "not answered"), *told(logs, "answered")]:
        assert entry["transport"] == transport and len(entry["id"]) == 24
        assert entry["peer"].startswith(("127.0.0.1:", "[::1]:"))
        assert entry["method"] == ("/v1/completions" if transport == "rest" else "Generate")
    ordinary = told(logs, "answered")
    assert [entry["tenant"] for entry in ordinary] == ["alice"] * 3 and {e["log_level"] for e in ordinary} == {"debug"}
    shown = str([*told(logs, "not answered"), *ordinary])
    assert SECRET not in shown and not any(key in shown for key, _ in KEYS.values())


async def test_the_id_that_a_caller_is_told_is_in_the_log(tmp_path: Path) -> None:
    async with running(api_keys_file=write_keys(tmp_path / "keys", "alice")) as server:
        with structlog.testing.capture_logs() as logs:
            async with server.session.get(f"{server.url}/v1/models") as response:
                ids = [response.headers["x-request-id"]]
            async with channel_of(server, None) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await InferenceServiceStub(channel).ListModels(pb.ListModelsRequest())
                ids.append(dict(refused.value.trailing_metadata())["x-request-id"])
            more = header("alice") | {"x-request-id": "mine"}
            async with server.session.get(f"{server.url}/v1/models/nobody", headers=more) as response:
                assert response.headers["x-request-id"] == "mine"
        assert [entry["id"] for entry in told(logs, "not answered")] == ids
        (line,) = told(logs, "answered")
        assert (line["given_id"], line["tenant"], line["code"]) == ("mine", "alice", "404")


async def test_a_message_that_cannot_be_read_has_a_line() -> None:
    async with running() as server, channel_of(server, None) as channel:
        with structlog.testing.capture_logs() as logs:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/dyno.inference.v1.InferenceService/Generate")(b"\xff\xff")
            await until(lambda: told(logs, "answered"))  # the caller may have its answer before
        (line,) = told(logs, "answered")
        assert line["id"] == dict(refused.value.trailing_metadata())["x-request-id"]
        assert line["code"] == "INVALID_ARGUMENT"


async def test_a_flood_has_few_lines_and_what_is_left_out_is_counted() -> None:
    clock = Clock()
    lines = CallLog(clock)
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            lines.tell("rest", "/v1/models", "401", Who("a"))
        assert len(logs) == BURST
        clock.now += 2.0
        for _ in range(10):
            lines.tell("rest", "/v1/models", "500", Who("b"))
    assert [entry.get("left_out") for entry in logs[int(BURST) :]] == [1000 - BURST, None]


async def test_a_flood_of_strangers_hides_nobody_who_has_a_key() -> None:
    lines = CallLog(Clock())
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            lines.tell("rest", "/v1/models", "401", Who("a"))
        lines.tell("rest", "/v1/completions", "429", Who("b", tenant="alice"))
    assert logs[-1]["tenant"] == "alice"


async def test_a_probe_that_is_told_no_is_nothing_to_tell() -> None:
    async with running(loading=True) as server:
        with structlog.testing.capture_logs() as logs:
            async with server.session.get(f"{server.url}/readyz") as response:
                assert response.status == 503
    assert told(logs, "not answered") == [] and len(told(logs, "answered")) == 1
