"""The Score call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.server.callers import rpc_refused
from tests.server.kit import CONTEXT, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

Message = tuple[pb.StreamGenerateResponse, int]


@pytest.mark.parametrize("text", ["a", "abc", "The wolf said nothing, which was unlike him."])
async def test_every_token_has_its_place(text: str, channel: grpc.aio.Channel) -> None:
    ids = pb.TokenIds(ids=text.encode())
    stub = InferenceServiceStub(channel)
    for request in (
        pb.ScoreRequest(model="fake", prompt=text, prompt_logprobs=1),
        pb.ScoreRequest(model="fake", token_ids=ids, prompt_logprobs=1),
    ):
        answer = await stub.Score(request)
        assert [token.id for token in answer.tokens] == [*text.encode()]
        assert not answer.tokens[0].HasField("logprob") and not answer.tokens[0].top
        assert [token.logprob for token in answer.tokens[1:]] == [-byte / 8 for byte in text.encode()[1:]]
        assert all(token.rank == 1 and token.top[0].id == token.id for token in answer.tokens[1:])
        assert answer.logprob == pytest.approx(-sum(text.encode()[1:]) / 8)
        usage = answer.finished.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(text), 0)
        assert answer.finished.reason == pb.FINISH_REASON_LENGTH and answer.model == "fake"


async def test_a_conversation_can_be_scored(channel: grpc.aio.Channel) -> None:
    conversation = pb.Conversation(messages=[pb.Message(role="user", content="Hi")])
    answer = await InferenceServiceStub(channel).Score(pb.ScoreRequest(model="chat", conversation=conversation))
    assert bytes(token.id for token in answer.tokens) == b"user: Hi\nassistant: "
    assert not any(token.top for token in answer.tokens)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (pb.ScoreRequest(model="fake"), "prompt"),
        (pb.ScoreRequest(model="fake", prompt="a", prompt_logprobs=21), "prompt_logprobs"),
        (pb.ScoreRequest(model="fake", prompt="a", prompt_logprobs=-1), "prompt_logprobs"),
        (pb.ScoreRequest(model="fake", prompt="a", priority=101), "priority"),
        (pb.ScoreRequest(model="fake", token_ids=pb.TokenIds(ids=[1] * (CONTEXT + 1))), "token_ids"),
        (pb.ScoreRequest(model="fake", prompt="a", user="x" * 65), "user"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_refused(request_: pb.ScoreRequest, param: str, channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as said:
        await InferenceServiceStub(channel).Score(request_)
    refused = rpc_refused(said.value, begun=False)
    assert (refused.kind, refused.param) == ("invalid", param)


async def messages(stub: Any, request: pb.GenerateRequest, many: bool) -> AsyncIterator[Message]:
    """Of a stream, or of a request of GenerateMany, each with the bytes of the message it came in."""
    if not many:
        async for one in stub.StreamGenerate(pb.StreamGenerateRequest(request=request)):
            yield one, one.ByteSize()
        return
    start = pb.GenerateStart(request=request)
    call = stub.GenerateMany()
    await call.write(pb.GenerateManyRequest(actions=[pb.GenerateAction(tag=1, start=start)]))
    await call.done_writing()
    async for message in call:
        for event in message.events:
            if event.HasField("piece"):
                yield event.piece, message.ByteSize()


@pytest.mark.parametrize("many", [False, True])
async def test_a_long_prompt_s_scores_come_in_several_messages(many: bool) -> None:
    ids = [1 + place % 200 for place in range(5000)]
    sampling = pb.SamplingParameters(max_tokens=3, ignore_eos=True)
    wish = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), prompt_logprobs=1, sampling=sampling, n=2)
    async with (
        running(fake_model(context=1 << 13, blocks=1 << 13)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        came = [one async for one in messages(InferenceServiceStub(channel), wish, many)]
    for choice in (0, 1):
        mine = [message for message, _ in came if message.index == choice]
        # Whoever reads slowly gets the first tokens with the last part.
        assert [len(message.prompt) for message in mine] == [2048, 2048, 904, *(0 for _ in mine[3:])]
        tokens = [token for message in mine for token in message.prompt]
        assert [token.id for token in tokens] == ids
        assert [token.HasField("logprob") for token in tokens] == [False] + [True] * 4999
        assert not any(message.tokens or message.HasField("finished") for message in mine[:2])
        assert sum(len(message.tokens) for message in mine) == 3 and mine[-1].HasField("finished")
    assert max(size for _, size in came) < 1 << 20


async def test_nothing_of_all_this_is_left(server: Harness) -> None:
    await server.settled()
