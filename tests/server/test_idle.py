"""A server that has nothing to do does nothing."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.server.test_process import Server, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process used")

SECONDS = 2.0


def used(server: Server) -> tuple[float, int]:
    """Seconds of processor time so far, and how often a thread went to sleep."""
    seconds, sleeps = 0.0, 0
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
        sleeps += int(found[1]) if found else 0
    return seconds, sleeps


async def spent(server: Server) -> tuple[float, int]:
    await asyncio.sleep(0.5)  # what is still to be done
    seconds, sleeps = used(server)
    await asyncio.sleep(SECONDS)
    after = used(server)
    return after[0] - seconds, after[1] - sleeps


async def test_an_idle_server_uses_no_processor() -> None:
    """Neither before its first request nor after its last: a few looks a second at health, files and the date."""
    async with serving("--model", "fake") as server:
        await server.ready()
        for _ in range(2):
            seconds, sleeps = await spent(server)
            assert seconds < 0.02 * SECONDS
            assert sleeps < 25 * SECONDS
            await server.sse(model="fake", max_tokens=4)
