"""What is told of requests beside the answers may be lost, and is counted then; a log that is rotated loses nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from server.requestlog import RequestLog
from tests.server.callers import RestCaller
from tests.server.doors import until
from tests.server.kit import fake_model, running
from tests.server.test_metrics import request


async def test_a_disk_that_is_full_costs_lines_and_nothing_else() -> None:
    log = RequestLog("/dev/full")
    for _ in range(3):
        log(request(id="call-0"))
    log.close()
    assert log.lost > 0


async def test_what_is_lost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def losses() -> dict[str, float]:
        return {what: await server.total("dyno_lost_total", what=what) for what in ("request_log", "spans", "observer")}

    models = (fake_model("fake"), fake_model("other"))
    async with running(*models, request_log="/dev/full", otlp_endpoint="http://127.0.0.1:9") as server:
        assert await losses() == {"request_log": 0, "spans": 0, "observer": 0}
        caller = RestCaller(server)
        await caller.whole(model="fake", prompt="abc", max_tokens=2)
        monkeypatch.setattr(server.app.observer, "received", None)  # whose every call fails
        await caller.whole(model="fake", prompt="abc", max_tokens=2)
        await caller.whole(model="other", prompt="abc", max_tokens=2)
        async with asyncio.timeout(5):
            while (await losses())["request_log"] < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await losses())["observer"] == 2
        await server.app.premises.take_down("other")
        assert (await losses())["observer"] == 2, "an engine that is gone takes none of them back"
        tracing = server.app._tracing
        assert tracing is not None
        tracing._aside.lose("it is full", 7)
        assert (await losses())["spans"] == 7


async def test_a_log_that_was_rotated_is_opened_anew(tmp_path: Path) -> None:
    path, old = tmp_path / "requests.jsonl", tmp_path / "requests.jsonl.1"
    log = RequestLog(str(path))
    log(request(id="one-0"))
    await until(lambda: path.read_text())
    path.rename(old)
    log(request(id="two-0"))
    await until(lambda: path.exists() and path.read_text())
    log(request(id="three-0"))
    log.close()
    assert [json.loads(line)["id"] for line in old.read_text().splitlines()] == ["one"]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["two", "three"]
    assert log.lost == 0


async def test_a_log_whose_folder_is_gone_is_written_where_it_was(tmp_path: Path) -> None:
    path, old = tmp_path / "logs" / "requests.jsonl", tmp_path / "old" / "requests.jsonl"
    path.parent.mkdir()
    log = RequestLog(str(path))
    path.parent.rename(old.parent)
    log(request(id="one-0"))
    log.close()
    assert old.read_text().count("\n") == 1 and log.lost == 0


async def test_a_log_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RequestLog(str(tmp_path / "nowhere" / "requests.jsonl"))
