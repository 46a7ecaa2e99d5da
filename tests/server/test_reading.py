"""Texts of completions, scores and /tokenize: what the tokenizer adds to them, and special tokens written in them."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from model.tokenizer import Tokenizer, byte_alphabet
from server.engine.stats import Observer
from server.models import ServedModel
from tests.server.callers import Caller, RestCaller, RpcCaller, refused
from tests.server.kit import VOCAB, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARK = VOCAB - 1
CHAT = "{% for message in messages %}{{ message.content }}{% endfor %}<|mark|>"
TEXT = "a<|mark|>b"


def served(observer: Observer) -> ServedModel:
    """Bytes and a mark, which also begins every text that no template frames."""
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(byte_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|mark|>", special=True)])
    backend.post_processor = processors.TemplateProcessing("<|mark|> $A", special_tokens=[("<|mark|>", MARK)])
    return dataclasses.replace(fake_model()(observer), tokenizer=Tokenizer(backend, frozenset(), CHAT))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Harness]:
    async with running(served) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["rest", "grpc"])
async def caller(request: pytest.FixtureRequest, server: Harness) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield RestCaller(server) if request.param == "rest" else RpcCaller(channel)


CASES: list[tuple[dict[str, bool], int, int]] = [  # what is asked, marks at the beginning, marks inside
    ({}, 1, 1),
    ({"add_special_tokens": True, "split_special_tokens": False}, 1, 1),
    ({"add_special_tokens": False}, 0, 1),
    ({"split_special_tokens": True}, 1, 0),
    ({"add_special_tokens": False, "split_special_tokens": True}, 0, 0),
]


def length(first: int, inside: int) -> int:
    return first + (3 if inside else len(TEXT))


@pytest.mark.parametrize(("asked", "first", "inside"), CASES, ids=str)
async def test_a_prompt_is_read_as_it_is_asked_for(
    asked: dict[str, bool], first: int, inside: int, caller: Caller
) -> None:
    [told] = await caller.whole(prompt=TEXT, max_tokens=1, prompt_logprobs=0, **asked)
    assert told.facts["usage"]["prompt_tokens"] == length(first, inside)
    ids = [place[0] for place in told.prompt if place is not None]  # but the first
    assert ids.count(MARK) == inside


@pytest.mark.parametrize(("asked", "first", "inside"), CASES, ids=str)
async def test_a_text_is_tokenised_as_a_prompt_is(
    asked: dict[str, Any], first: int, inside: int, server: Harness
) -> None:
    async with server.session.post(f"{server.url}/tokenize", json={"prompt": TEXT, **asked}) as response:
        ids = (await response.json())["tokens"]
    assert (len(ids), ids.count(MARK)) == (length(first, inside), first + inside)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = InferenceServiceStub(channel)
        assert list((await stub.Tokenize(pb.TokenizeRequest(text=TEXT, **asked))).token_ids) == ids
        scored = await stub.Score(pb.ScoreRequest(prompt=TEXT, **asked))
        assert [token.id for token in scored.tokens] == ids


async def test_contents_of_a_conversation_are_plain_whatever_is_asked_of_texts(server: Harness, caller: Caller) -> None:
    messages = [{"role": "user", "content": TEXT}]
    [told] = await caller.whole(messages=messages, max_tokens=1)
    assert told.facts["usage"]["prompt_tokens"] == len(TEXT) + 1
    body = {"messages": messages, "split_special_tokens": False}
    async with server.session.post(f"{server.url}/v1/chat/completions", json=body) as response:
        said = refused(response.status, await response.json(), response.headers)
    assert (said.code, said.param) == ("unknown_field", "split_special_tokens")
    asked = pb.Conversation(messages=[pb.Message(role="user", content=TEXT)])
    async with grpc.aio.insecure_channel(server.target) as channel:
        for name in ("add_special_tokens", "split_special_tokens"):
            with pytest.raises(grpc.aio.AioRpcError, match=f"{name} is of a text"):
                await InferenceServiceStub(channel).Generate(pb.GenerateRequest(conversation=asked, **{name: True}))
