"""The Score call."""

from __future__ import annotations

import grpc
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.server.callers import rpc_refused
from tests.server.kit import CONTEXT, Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def test_nothing_of_all_this_is_left(server: Harness) -> None:
    await server.settled()
