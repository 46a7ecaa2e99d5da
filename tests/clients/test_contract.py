"""A fuzzer that knows nothing of the server but its OpenAPI document finds no answer that is not in it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.clients.kit import OFFLINE, ROOT, program
from tests.server.kit import fake_model, running

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]

NOT_TRIED = "(admin|routing|debug)"  # they end the server, do not end, or are not there


async def test_schemathesis(tmp_path: Path) -> None:
    """Every status and body is as documented, and what the document forbids is refused. What it cannot say is left
    out: that fields go together, that token ids end with the vocabulary, that 1.0 is no integer."""
    command = [program("python", "st"), "run", str(ROOT / "docs" / "openapi.json")]
    more = ["--phases", "coverage,fuzzing", "--max-examples", "30", "--seed", "1", "--no-color"]
    without = ["--exclude-path-regex", NOT_TRIED, "--exclude-checks", "positive_data_acceptance"]
    async with running(fake_model("chat", chat=True)) as server:
        process = await asyncio.create_subprocess_exec(
            *(*command, "--url", server.url, *more, *without),
            cwd=tmp_path,
            env=os.environ | OFFLINE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await asyncio.wait_for(process.communicate(), 380)
    assert process.returncode == 0, told.decode()[-6000:]
    assert "Tested: 12" in told.decode()
