"""A server that guesses answers as one that does not, over both transports, and says what its guesses came to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from server.__main__ import build_models
from server.config import Settings
from tests.fakes import Recorder, make_request
from tests.server.callers import Caller
from tests.server.kit import Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = ("Der Wolf, 🐻 und der Bär. " * 6 + "ENDE").encode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Harness]:
    """Both tell the same story, which repeats itself; quick guesses."""
    plain, quick = fake_model("plain", script=SCRIPT), fake_model("quick", script=SCRIPT, speculate=6)
    async with running(plain, quick) as harness:
        yield harness


@pytest.mark.parametrize(
    "wish",
    [
        {"max_tokens": 200},
        {"max_tokens": 61},
        {"max_tokens": 200, "stop": ["Bär. Der"]},
        {"max_tokens": 200, "min_tokens": 90, "stop": [" und"]},
        {"max_tokens": 120, "logprobs": 1, "n": 2, "routing": "tokens"},
    ],
    ids=str,
)
async def test_the_same_is_told_in_fewer_steps(caller: Caller, wish: dict[str, Any]) -> None:
    whole = [await caller.whole(model=model, prompt="Märchen: ", **wish) for model in ("plain", "quick")]
    streamed = [await caller.stream(model=model, prompt="Märchen: ", **wish) for model in ("plain", "quick")]
    for slow, quick in zip([*whole[0], *streamed[0]], [*whole[1], *streamed[1]], strict=True):
        assert (quick.text, quick.tokens, quick.reason) == (slow.text, slow.tokens, slow.reason)
        assert quick.logprobs == slow.logprobs
        assert quick.facts["usage"] | {"cached_tokens": 0} == slow.facts["usage"] | {"cached_tokens": 0}
        assert quick.facts["routing"] == slow.facts["routing"]
        assert "".join(quick.pieces) == slow.text or not quick.pieces
        steps, before = quick.facts["steps"], slow.facts["steps"]
        assert 0 < steps["accepted_tokens"] <= steps["drafted_tokens"]
        assert (before["accepted_tokens"], before["drafted_tokens"]) == (0, 0)
        assert steps["count"] + steps["accepted_tokens"] == before["count"]


async def test_guesses_are_counted(caller: Caller, server: Harness) -> None:
    async def totals() -> list[float]:
        await server.settled()
        names = ("drafted_tokens_total", "accepted_tokens_total", "generated_tokens_total", "batch_rows_sum")
        return [await server.total(f"dyno_{name}", model="quick") for name in names]

    before = await totals()
    told = await caller.whole(model="quick", prompt="Märchen: ", max_tokens=100, n=2)
    drafted, accepted, generated, rows = (b - a for a, b in zip(before, await totals(), strict=True))
    steps = [choice.facts["steps"] for choice in told]
    assert drafted == sum(one["drafted_tokens"] for one in steps)
    assert accepted == sum(one["accepted_tokens"] for one in steps) > 0
    assert generated == 200 == rows + accepted
    assert await server.total("dyno_drafted_tokens_total", model="plain") == 0


async def test_the_setting_reaches_the_engine() -> None:
    """Greedy, a random model falls into a loop."""
    seen = Recorder()
    settings = Settings(model=("gpt2",), scale="tiny", speculate=4, max_rows=1, measure_machine=False)
    (served,) = build_models(settings, seen)
    served.engine.add(make_request([0, 1, 2, 3, 4] * 3, 60))
    while served.engine.has_work:
        served.engine.step()
    (stats,) = seen.requests
    assert stats.accepted_tokens > 10 and stats.steps == 60 - stats.accepted_tokens
