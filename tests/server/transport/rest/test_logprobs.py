"""Log-probabilities of REST: places in the text, bytes of tokens, and the same told in a stream and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.tokenizer import ByteTokenizer
from server.engine.step import TokenLogprobs
from server.transport.rest.logprobs import TextPlaces, completion_logprobs
from tests.server.kit import Harness, fake_model, running

SCRIPT = "He said — “Enough” — and ENDED it.".encode()
BODY = {"prompt": "x—y", "max_tokens": 60, "logprobs": 1}


@given(st.text())
def test_a_token_begins_where_its_character_does(text: str) -> None:
    places = TextPlaces(ByteTokenizer(), 7).of(list(text.encode()))
    assert places == [7 + place for place, character in enumerate(text) for _ in character.encode()]


@pytest.mark.parametrize(
    ("tokens", "places"),
    [
        (b"\xe2H", [0, 1]),
        (b"\xe2\xff", [0, 1]),
        (b"\xe2\x80H", [0, 0, 1]),
        (b"\x80\x80\xe2\x80\x94", [0, 1, 2, 2, 2]),
        ("\ufffda".encode(), [0, 0, 0, 1]),
    ],
)
def test_bytes_that_are_no_character_have_places_too(tokens: bytes, places: list[int]) -> None:
    assert TextPlaces(ByteTokenizer()).of(list(tokens)) == places


def test_tokens_with_the_same_text_stay_apart() -> None:
    logprob = TokenLogprobs(-2.0, ((0xE2, -1.0), (0xE3, -2.0), (65, -3.0), (0xE4, -4.0)))
    told = completion_logprobs(ByteTokenizer(), [0xE3], [logprob], [0])
    assert told["tokens"] == ["\ufffd"]
    assert told["top_logprobs"] == [{"\ufffd": -2.0, "token_id:226": -1.0, "A": -3.0, "token_id:228": -4.0}]


async def whole(server: Harness, path: str, **body: Any) -> dict[str, Any]:
    async with server.session.post(f"{server.url}{path}", json=body) as answer:
        (choice,) = (await answer.json())["choices"]
        return dict(choice)


async def chunks(server: Harness, path: str, **body: Any) -> list[dict[str, Any]]:
    async with server.session.post(f"{server.url}{path}", json=body | {"stream": True}) as answer:
        events = [json.loads(line[6:]) for line in (await answer.text()).split("\n\n") if line.startswith("data: {")]
    return [event["choices"][0] for event in events]


@pytest.mark.parametrize("stop", [[], ["ENDED", "En"], ["said — “Enough” — but", "END"]])
@pytest.mark.parametrize("echo", [False, True])
async def test_a_stream_of_completions_tells_what_the_whole_answer_does(stop: list[str], echo: bool) -> None:
    async with running(fake_model(script=SCRIPT)) as server:
        body = BODY | {"stop": stop, "echo": echo}
        one, parts = await whole(server, "/v1/completions", **body), await chunks(server, "/v1/completions", **body)
    joined = {name: [x for part in parts for x in part["logprobs"][name]] for name in one["logprobs"]}
    assert joined == one["logprobs"]
    shown = ("x—y" if echo else "") + SCRIPT.decode()
    expected = [place for place, character in enumerate(shown) for _ in character.encode()]
    assert joined["text_offset"][: len(expected)] == expected[: len(joined["text_offset"])]
    assert shown.startswith(one["text"]) and "".join(part["text"] for part in parts) == one["text"]


async def test_a_stream_of_chat_tells_the_tokens_own_bytes() -> None:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 60,
        "logprobs": True,
        "top_logprobs": 1,
        "stop": ["said — “Enough” — but"],
    }
    async with running(fake_model(script=SCRIPT, chat=True)) as server:
        one = await whole(server, "/v1/chat/completions", **body)
        parts = await chunks(server, "/v1/chat/completions", **body)
    content = one["logprobs"]["content"]
    assert bytes(b for token in content for b in token["bytes"]) == SCRIPT
    assert bytes(b for token in content for b in token["top_logprobs"][0]["bytes"]) == SCRIPT
    assert [token for part in parts for token in part["logprobs"]["content"]] == content
