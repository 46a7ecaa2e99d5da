"""What a scrape gets: the format it asked for, names as they are, and nothing older than the asking."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from server.transport.rest.scrapes import Scrapes
from tests.server.kit import BLOCKS, Harness, fake_model, running

OPENMETRICS = "application/openmetrics-text"
FORMATS = {
    "plain": "text/plain;version=0.0.4",
    "anything": "*/*",
    "openmetrics": f"{OPENMETRICS};version=1.0.0",
    "prometheus 2": f"{OPENMETRICS};version=1.0.0,{OPENMETRICS};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5",
    "prometheus 3": f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4",
    "underscores": f"{OPENMETRICS};version=1.0.0;escaping=underscores",
}


@pytest_asyncio.fixture
async def peers() -> AsyncIterator[Harness]:
    async with running(fake_model("fake"), peer_metrics=True) as harness:
        yield harness


@pytest.mark.parametrize("accept", FORMATS.values(), ids=FORMATS.keys())
async def test_names_of_others_are_whole_in_every_format(accept: str, peers: Harness) -> None:
    async with peers.session.get(f"{peers.url}/metrics", headers={"accept": accept}) as response:
        kind, text = response.content_type, await response.text()
    assert kind == (OPENMETRICS if OPENMETRICS in accept else "text/plain")
    families = (openmetrics if kind == OPENMETRICS else plain)(text)
    names = {sample.name for family in families for sample in family.samples}
    for name in ("vllm:num_requests_waiting", "vllm:time_to_first_token_seconds_bucket", "dyno_requests_running"):
        assert name in names


async def test_the_capacity_is_told_before_anybody_has_asked_for_anything(peers: Harness) -> None:
    assert await peers.total("dyno_cache_blocks_capacity", model="fake") == BLOCKS - 1
    assert await peers.total("vllm:cache_config_info", num_gpu_blocks=str(BLOCKS - 1)) == 1


class Numbered:
    """Expositions by their number; each takes until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.gates: list[threading.Event] = []

    def __call__(self, accept: str) -> tuple[Callable[[], bytes], str]:
        return lambda: self._write(accept), accept

    def _write(self, accept: str) -> bytes:
        self.begun += 1
        gate, number = threading.Event(), self.begun
        self.gates.append(gate)
        assert gate.wait(5)
        return f"{accept} {number}".encode()

    async def until(self, begun: int) -> None:
        while len(self.gates) < begun:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_many_who_wait_share_one_that_began_after_they_asked() -> None:
    numbered = Numbered()
    scrapes = Scrapes(numbered)
    first = asyncio.create_task(scrapes.answer("a"))
    await numbered.until(1)
    later = [asyncio.create_task(scrapes.answer("a")) for _ in range(3)]
    others = [asyncio.create_task(scrapes.answer("b")) for _ in range(2)]
    await asyncio.sleep(0)
    later[0].cancel()  # who leaves takes nothing from the others
    for number in range(1, 4):
        await numbered.until(number)
        numbered.gates[number - 1].set()
    assert await first == (b"a 1", "a")
    assert await asyncio.gather(*later[1:]) == [(b"a 2", "a")] * 2
    assert await asyncio.gather(*others) == [(b"b 3", "b")] * 2
    assert numbered.begun == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_caller_was_told_is_in_the_next_scrape(server: Harness) -> None:
    """While others scrape without a pause."""
    stop = asyncio.Event()

    async def scrape() -> None:
        while not stop.is_set():
            await server.series()

    scraping = [asyncio.create_task(scrape()) for _ in range(3)]
    name, labels = "dyno_requests_total", {"outcome": "rejected", "model": "fake"}
    before = await server.total(name, **labels)
    for number in range(1, 11):
        body = {"model": "fake", "prompt": "x", "temperature": -1}
        async with server.session.post(f"{server.url}/v1/completions", json=body) as response:
            assert response.status == 400
        assert await server.total(name, **labels) == before + number
    stop.set()
    await asyncio.gather(*scraping)


@pytest.mark.asyncio(loop_scope="module")
async def test_histograms_agree_with_the_clock_of_a_client(server: Harness) -> None:
    """A client's times hold the server's, and little more: the bound is for machines that do other things as well."""
    names = ("time_to_first_token", "e2e_request")
    before = [await server.total(f"dyno_{name}_seconds_sum", model="slow") for name in names]
    body = {"model": "slow", "prompt": "abc", "max_tokens": 10, "ignore_eos": True, "stream": True}
    firsts = whole = 0.0
    for _ in range(5):
        began = time.monotonic()
        async with server.session.post(f"{server.url}/v1/completions", json=body) as response:
            await response.content.readany()
            firsts += time.monotonic() - began
            await response.read()
            whole += time.monotonic() - began
    await server.settled()
    after = [await server.total(f"dyno_{name}_seconds_sum", model="slow") for name in names]
    for mine, told in zip((firsts, whole), (b - a for a, b in zip(before, after, strict=True)), strict=True):
        assert 0 <= (mine - told) / 5 < 0.05
