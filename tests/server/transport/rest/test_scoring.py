"""Prompts with log-probabilities, as clients that score ask for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes import continuation
from tests.server.kit import VOCAB, Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPTS = [[*b"The wolf said: "], [*b"no"], [7]]


async def post(server: Harness, body: dict[str, Any], path: str = "/v1/completions") -> tuple[int, dict[str, Any]]:
    async with server.session.post(server.url + path, json={"model": "fake", **body}) as response:
        return response.status, await response.json()


async def answered(server: Harness, body: dict[str, Any], path: str = "/v1/completions") -> dict[str, Any]:
    status, answer = await post(server, body, path)
    assert status == 200, answer
    return answer


async def streamed(server: Harness, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with server.session.post(
        f"{server.url}/v1/completions", json={"model": "fake", **body, "stream": True}
    ) as response:
        raw = (await response.read()).decode()
    *events, done, rest = raw.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
async def test_a_batch_is_scored_as_a_harness_of_evaluations_reads_it(max_tokens: int, server: Harness) -> None:
    body = {"prompt": PROMPTS, "temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "seed": 1234, "echo": True}
    answer = await answered(server, body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    for prompt, choice in zip(PROMPTS, answer["choices"], strict=True):
        told = choice["logprobs"]
        said = [*prompt, *continuation(prompt, max_tokens, VOCAB)]
        assert {len(told[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")} == {len(said)}
        assert told["token_logprobs"] == [None, *(-token / 8 for token in said[1:])]
        assert told["top_logprobs"][0] is None
        assert all(
            max(top.values()) >= own
            for top, own in zip(told["top_logprobs"][1:], told["token_logprobs"][1:], strict=True)
        )
        assert told["text_offset"] == sorted(told["text_offset"]) and told["text_offset"][0] == 0
        assert choice["text"].startswith(bytes(prompt).decode())
        assert choice["finish_reason"] == "length"
    total = sum(map(len, PROMPTS))
    assert answer["usage"]["prompt_tokens"] == total
    assert answer["usage"]["completion_tokens"] == 3 * max_tokens


@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"prompt_logprobs": 1}, {"n": 2, "logprobs": 0}], ids=str)
async def test_a_stream_tells_the_same(more: dict[str, Any], server: Harness) -> None:
    body = {"prompt": "abc", "max_tokens": 4, "temperature": 0, "echo": True, **more}
    whole = await answered(server, body)
    events = await streamed(server, body)
    for choice in whole["choices"]:
        parts = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[0]["text"].startswith("abc")
        assert parts[0].get("prompt_logprobs") == choice.get("prompt_logprobs")
        assert not any("prompt_logprobs" in part for part in parts[1:])
        if choice["logprobs"] is not None:
            for name, values in choice["logprobs"].items():
                assert [value for part in parts for value in part["logprobs"][name]] == values


async def test_an_echo_alone_is_the_prompt_before_the_answer(server: Harness) -> None:
    answer = await answered(server, {"prompt": "abc", "max_tokens": 0, "echo": True})
    assert answer["choices"][0] == {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}


async def test_prompt_logprobs_are_told_by_id(server: Harness) -> None:
    for path, extra in (("/v1/completions", {"prompt": "ab"}),):
        answer = await answered(server, {**extra, "max_tokens": 1, "prompt_logprobs": 1}, path)
        own = {"logprob": -98 / 8, "rank": 1, "decoded_token": "b"}
        assert answer["choices"][0]["prompt_logprobs"] == [None, {"98": own}]
        assert answer["choices"][0]["text"] == "" or not answer["choices"][0]["text"].startswith("ab")


async def test_a_conversation_is_scored_too(server: Harness) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "prompt_logprobs": 0}
    answer = await answered(server, body, "/v1/chat/completions")
    prompt = b"user: Hi\nassistant: "
    scores = answer["choices"][0]["prompt_logprobs"]
    assert [next(iter(score)) for score in scores[1:]] == [str(byte) for byte in prompt[1:]]
    assert answer["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize(
    "body", [{"max_tokens": 0}, {"max_tokens": 0, "echo": False}, {"max_tokens": -1, "echo": True}]
)
async def test_nothing_to_generate_and_nothing_to_tell_is_refused(body: dict[str, Any], server: Harness) -> None:
    status, answer = await post(server, {"prompt": "abc", **body})
    assert (status, answer["error"]["param"]) == (400, "max_tokens")


async def test_nothing_of_all_this_is_left(server: Harness) -> None:
    await server.settled()
