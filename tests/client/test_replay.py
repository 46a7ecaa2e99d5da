"""Replays on a server whose log-probabilities are known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from math import log
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from rich.console import Console

from client.api import ClientError, Unreachable
from client.replay import Stored, read, replay, view
from tests.client.fake_server import silent

STORED = Stored("one", "a b", "c d e", (3, 4, 5), 2, 0.5)


async def tokenize(request: web.Request) -> web.Response:
    return web.json_response({"tokens": [ord(word) - 96 for word in (await request.json())["prompt"].split()]})


async def detokenize(request: web.Request) -> web.Response:
    body = await request.json()
    letters = "xyz" if body["model"] == "foreign" else "abcdefgh"
    return web.json_response({"prompt": " ".join(letters[(t - 1) % len(letters)] for t in body["tokens"])})


async def score(request: web.Request) -> web.Response:
    """Every token has a probability of 1/2 and is the likeliest, but the last: 1/4, and token 9 is likelier."""
    body = await request.json()
    if body["model"] == "missing":
        return web.json_response({"error": {"message": "no such model", "code": "model_not_found"}}, status=404)
    assert body["max_tokens"] == 0
    places: list[dict[str, object] | None] = [None]
    for token in body["prompt"][1:]:
        places.append({str(token): {"logprob": log(1 / 2), "rank": 1, "decoded_token": f"t{token}"}})
    places[-1] = {
        str(body["prompt"][-1]): {"logprob": log(1 / 4), "rank": 2, "decoded_token": "last"},
        "9": {"logprob": log(1 / 2), "rank": 1, "decoded_token": "nine"},
    }
    return web.json_response({"choices": [{"prompt_logprobs": places}]})


@pytest.fixture
async def target() -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(
        [web.post("/tokenize", tokenize), web.post("/detokenize", detokenize), web.post("/v1/completions", score)]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_every_token_is_told_and_where_it_would_differ(target: str) -> None:
    told = await replay(target, STORED, "other")
    assert [token.id for token in told.tokens] == [3, 4, 5]
    assert told.mean_logprob == pytest.approx((2 * log(1 / 2) + log(1 / 4)) / 3)
    assert told.divergence == 2
    assert (told.tokens[2].best_id, told.tokens[2].best_text) == (9, "nine")
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        view(STORED, [told], console)
    assert "token 2: 'nine' instead of 'last'" in captured.get()


async def test_another_tokenizer_is_refused(target: str) -> None:
    with pytest.raises(ClientError, match="'foreign' has another tokenizer"):
        await replay(target, STORED, "foreign")


async def test_what_the_server_says_is_told(target: str) -> None:
    with pytest.raises(ClientError, match="no such model"):
        await replay(target, STORED, "missing")
    with pytest.raises(ClientError, match="needs REST"):
        await replay("grpc://127.0.0.1:1", STORED, "other")
    with pytest.raises(Unreachable, match="nothing answers"):
        await replay("http://127.0.0.1:1", STORED, "other")


async def test_one_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.replay.MOST_SECONDS", 0.05)
    async with silent() as target:
        with pytest.raises(ClientError, match="did not read the answer within"):
            await replay(target, STORED, "other")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "no stored answer"),
        (b"{}", "no stored answer"),
        (b'{"schema": "dyno.load/1"}', "has the schema 'dyno.load/1'"),
        (
            orjson.dumps(
                {
                    "schema": "dyno.generate/1",
                    "model": "m",
                    "prompt": "a",
                    "text": "",
                    "token_ids": [],
                    "usage": {"prompt_tokens": 1},
                    "client": {"total": 1.0},
                }
            ),
            "answer of no tokens",
        ),
    ],
)
def test_a_file_that_is_no_answer_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "stored.json"
    path.write_bytes(content)
    with pytest.raises(ClientError, match=said):
        read(path)
