"""Log-probabilities of REST: places in the text, bytes of tokens, and the same told in a stream and whole."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from model.tokenizer import ByteTokenizer, Tokenizer
from server.engine.request import TokenLogprobs
from server.transport.rest.logprobs import TextPlaces, completion_logprobs
from tests.server.kit import Harness, fake_model, running

SCRIPT = "He said — “Enough” — and ENDED it.".encode()
BODY = {"prompt": "x—y", "max_tokens": 60, "logprobs": 1}
ONCE, UPON, A, DASH = 1, 2, 3, (4, 5, 6)


def llama() -> Tokenizer:
    """Takes the space off the first word of a text, and falls back on bytes."""
    vocabulary = ["<unk>", "▁Once", "▁upon", "a", "<0xE2>", "<0x80>", "<0x94>"]
    model = models.BPE({text: i for i, text in enumerate(vocabulary)}, [], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend, frozenset())


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


def test_a_word_has_its_space_but_where_a_text_begins() -> None:
    assert TextPlaces(llama()).of([ONCE, UPON, A]) == [0, 4, 9]
    assert TextPlaces(llama(), 3, [ONCE]).of([UPON, A, ONCE]) == [3, 8, 9]
    assert TextPlaces(llama(), after=[ONCE]).of([DASH[0], UPON, A]) == [0, 1, 6], "the byte is no character"


@pytest.mark.parametrize("echo", [False, True])
async def test_places_are_those_in_the_text_of_the_choice(echo: bool) -> None:
    script = (UPON, A, ONCE, *DASH, A)
    made = fake_model(script=script)
    body = {"prompt": [ONCE, A], "max_tokens": len(script), "logprobs": 0, "echo": echo}
    async with running(lambda observer: dataclasses.replace(made(observer), tokenizer=llama())) as server:
        one, parts = await whole(server, "/v1/completions", **body), await chunks(server, "/v1/completions", **body)
    places = [0, 5, 6, 11, 11, 11, 12]
    assert one["text"] == ("Oncea" if echo else "") + " upona Once—a" == "".join(part["text"] for part in parts)
    assert one["logprobs"]["text_offset"] == ([0, 4, *(5 + place for place in places)] if echo else places)
    assert [place for part in parts for place in part["logprobs"]["text_offset"]] == one["logprobs"]["text_offset"]


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
