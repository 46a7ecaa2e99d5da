"""What an operator sees and does of requests in flight, on both transports."""

from __future__ import annotations

import asyncio

import pytest

from server.service import Phase
from tests.server.callers import Refused
from tests.server.doors import until
from tests.server.kit import fake_model
from tests.server.operators import LONG, administered, refusal

SECRET = "nobody may see this text"


@pytest.mark.parametrize("transport", ["rest", "grpc"])
class TestRequests:
    async def test_they_are_listed_without_a_word_of_theirs(self, transport: str) -> None:
        async with administered(transport, fake_model("slow", sleep=0.01, rows=1)) as (server, operator, caller):
            first = asyncio.create_task(caller.stream(**LONG | {"prompt": SECRET, "n": 2, "user": "somebody"}))
            await until(lambda: server.app.service.active)
            await asyncio.sleep(0.2)
            second = asyncio.create_task(caller.stream(**LONG | {"prompt": SECRET, "max_tokens": 3}))
            await until(lambda: len(server.app.service.active) == 2)
            old, young = await operator.requests()
            assert SECRET not in str(old) and "somebody" not in str(old)
            assert (old["model"], old["tenant"]) == ("slow", "")
            assert old["age"] > young["age"] >= 0
            running, waiting = old["choices"]
            assert (running["phase"], waiting["phase"], young["choices"][0]["phase"]) == ("decode", "queued", "queued")
            assert running["prompt_tokens"] == len(SECRET) and 0 < running["completion_tokens"] < 100
            assert (running["max_tokens"], waiting["completion_tokens"]) == (100, 0)
            server.hurry()
            await asyncio.gather(first, second)
            assert await operator.requests() == []

    async def test_one_is_cancelled_and_its_caller_hears_of_it(self, transport: str) -> None:
        async with administered(transport) as (server, operator, caller):
            streams = [asyncio.create_task(caller.stream(**LONG)) for _ in range(2)]
            await until(lambda: len(server.app.service.active) == 2)
            await asyncio.sleep(0.1)
            oldest = (await operator.requests())[0]["id"]
            await operator.cancel(oldest)
            server.hurry()
            ends = await asyncio.gather(*streams, return_exceptions=True)
            (refused,) = (end for end in ends if isinstance(end, Refused))
            assert refused.code == "cancelled" and "operator" in refused.message
            assert [len(end[0].tokens) for end in ends if not isinstance(end, BaseException)] == [100]
            assert (await refusal(operator.cancel(oldest))).code == "request_not_found"
            assert await server.total("dyno_requests_total", model="slow", outcome="cancelled") == 1
            await server.settled()

    @pytest.mark.parametrize("id", ["", "x" * 100_000, "a\nb", "../../etc"], ids=["empty", "long", "line", "path"])
    async def test_ids_of_nobody(self, transport: str, id: str) -> None:
        async with administered(transport) as (_, operator, _):
            refused = await refusal(operator.cancel(id))
            assert (refused.kind, refused.code) == ("not found", "request_not_found")
            assert len(refused.message) < 300 and "\n" not in refused.message

    async def test_prefixes_are_forgotten(self, transport: str) -> None:
        prompt = "a prompt that is long enough for several blocks"
        async with administered(transport) as (server, operator, caller):

            async def cached() -> float:
                await caller.whole(model="fake", prompt=prompt, max_tokens=1)
                return await server.total("dyno_cached_tokens_total", model="fake")

            assert await cached() == 0
            assert (found := await cached()) > 0
            assert await operator.reset("fake") == ["fake"]
            assert await cached() == found, "nothing was found"
            assert sorted(await operator.reset()) == ["fake", "slow"]
            assert (await refusal(operator.reset("nobody"))).code == "model_not_found"

    async def test_a_drain_lets_finish_and_takes_nothing_new(self, transport: str) -> None:
        async with administered(transport) as (server, operator, caller):
            stream = asyncio.create_task(caller.stream(**LONG))
            await until(lambda: server.app.service.active)
            assert await operator.drain() == 1
            assert server.app.leaving.is_set() and server.app.service.phase is Phase.DRAINING
            assert (await refusal(caller.whole(**LONG))).code == "draining"
            assert (await refusal(operator.load("new=fake"))).code == "draining"
            server.hurry()
            assert len((await stream)[0].tokens) == 100
