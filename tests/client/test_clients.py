"""Both clients, one suite: what one does, the other does."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, aclosing

import pytest

from client.access import Access
from client.api import (
    Answer,
    Client,
    ClientError,
    Conversation,
    GenerateRequest,
    Message,
    RoutingDetail,
    Sampling,
    StreamCut,
    Unreachable,
    collect,
)
from client.connect import TargetError, connect
from client.facts import facts_from_json, facts_to_json
from client.rest import RestClient
from tests.client.answers import CARD, UNKNOWN_FIELD, facts
from tests.client.fake_server import FakeServer, Script

PROMPTS = {
    "text": "once upon a time",
    "ids": (5, 6, 7),
    "conversation": Conversation((Message("user", "tell me a tale"),)),
}


def asking(prompt: object = "once upon a time", **sampling: object) -> GenerateRequest:
    return GenerateRequest(prompt, "fake", Sampling(**({"max_tokens": 4, "seed": 7} | sampling)))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", PROMPTS)
async def test_an_answer_is_its_words_and_its_facts(client: Client, form: str) -> None:
    answer = await collect(client.generate(asking(PROMPTS[form])))
    length = {"text": 4, "ids": 3, "conversation": 1}[form]
    assert answer.id == "r1"
    assert [choice.text for choice in answer.choices] == ["w7.0 w7.1 w7.2 w7.3 "]
    assert answer.choices[0].facts == facts_from_json(facts(length, 4))


async def test_both_transports_give_the_same_answer(fake: FakeServer) -> None:
    answers: list[Answer] = []
    for target in (fake.http, fake.grpc):
        async with connect(target) as client:
            answers.append(await collect(client.generate(asking())))
    assert answers[0] == answers[1]


async def test_over_rest_any_path_can_be_asked(fake: FakeServer) -> None:
    async with RestClient(f"{fake.http}/v1/", Access()) as client:
        assert await client.json("POST", "/tokenize", {"prompt": "a bc"}) == {"tokens": [1, 2]}
        assert await client.text("/seen") == "0"
        with pytest.raises(ClientError, match="404"):
            await client.text("/nowhere")
        with pytest.raises(ClientError, match="not a JSON object"):
            await client.json("GET", "/seen")


async def test_pieces_come_one_by_one_and_only_the_last_has_facts(client: Client) -> None:
    pieces = [piece async for piece in client.generate(asking())]
    assert [piece.token_ids for piece in pieces] == [(0,), (1,), (2,), (3,)]
    assert [piece.facts is not None for piece in pieces] == [False, False, False, True]


async def test_only_what_was_asked_for_is_sent(fake: FakeServer) -> None:
    everything = Sampling(
        max_tokens=3, temperature=0.5, top_k=4, top_p=0.9, seed=1, stop=("x",), logit_bias={3: -1.5}, ignore_eos=True
    )
    async with connect(fake.http) as rest, connect(fake.grpc) as rpc:
        for client in (rest, rpc):
            await collect(client.generate(GenerateRequest("hi", "fake", everything, user="me")))
    (_, body), (_, message) = fake.seen
    expected = everything.given() | {"prompt": "hi", "model": "fake", "user": "me", "logit_bias": {"3": -1.5}}
    expected |= {"stop": ["x"], "dyno": {"routing": "layers"}}
    assert body == expected | {"stream": True, "stream_options": {"include_usage": True}}
    assert (message.prompt, message.model, message.user, message.n) == ("hi", "fake", "me", 1)
    assert {f.name for f, _ in message.sampling.ListFields()} == everything.given().keys()
    assert dict(message.sampling.logit_bias) == {3: -1.5}


async def test_routing_is_left_out_when_not_wanted(client: Client) -> None:
    request = GenerateRequest("hi", "fake", Sampling(max_tokens=2), routing=RoutingDetail.NONE)
    answer = await collect(client.generate(request))
    assert answer.choices[0].facts.routing is None


async def test_an_endpoint_that_is_not_dynos_still_tells_usage(fake: FakeServer) -> None:
    fake.behave(extension=False)
    async with connect(fake.http) as client:
        answer = await collect(client.generate(asking()))
    told = answer.choices[0].facts
    assert (told.finish_reason, told.usage.prompt_tokens, told.usage.completion_tokens) == ("length", 4, 4)
    assert told.latency is None


@pytest.mark.parametrize("who", UNKNOWN_FIELD)
async def test_an_endpoint_that_refuses_the_extension_is_asked_without_it(fake: FakeServer, who: str) -> None:
    fake.behave(extension=False, strict=UNKNOWN_FIELD[who])
    async with connect(fake.http) as client:
        answers = [await collect(client.generate(asking())) for _ in range(2)]
    assert [answer.choices[0].facts.usage.completion_tokens for answer in answers] == [4, 4]
    assert ["dyno" in body for _, body in fake.seen] == [True, False, False]


async def test_a_request_that_is_refused_either_way_does_not_cost_the_facts_of_the_next(fake: FakeServer) -> None:
    fake.behave(strict=UNKNOWN_FIELD["OpenAI"])
    async with connect(fake.http) as client:
        with pytest.raises(ClientError, match="max_tokens must be at most 256"):
            await collect(client.generate(asking(max_tokens=257)))
        fake.behave(strict=b"")
        answer = await collect(client.generate(asking()))
    assert answer.choices[0].facts.latency is not None


async def test_an_error_without_openais_form_is_quoted(fake: FakeServer) -> None:
    fake.behave(strict=b"<h1>no\n such page</h1>")
    async with connect(fake.http) as client:
        with pytest.raises(ClientError, match=r"answered with status 400: <h1>no such page</h1>$"):
            await collect(client.generate(asking()))


@pytest.mark.parametrize("after", [0, 2])
async def test_a_cut_stream_is_not_an_answer(client: Client, fake: FakeServer, after: int) -> None:
    fake.behave(cut_after=after)
    with pytest.raises(StreamCut):
        await collect(client.generate(asking()))


async def test_a_fault_in_the_stream_is_an_error(client: Client, fake: FakeServer) -> None:
    fake.behave(fault_after=2)
    with pytest.raises(ClientError, match="the server failed") as caught:
        await collect(client.generate(asking()))
    assert (caught.value.status, caught.value.code) == (500, "internal_error")


@pytest.mark.parametrize(
    ("request_", "status", "code", "param"),
    [
        (GenerateRequest("hi", "other", Sampling(max_tokens=1)), 404, "model_not_found", "model"),
        (GenerateRequest("hi", "fake", Sampling(max_tokens=257)), 400, "invalid_value", "max_tokens"),
    ],
    ids=["model", "max_tokens"],
)
async def test_a_refusal_names_the_field(
    client: Client, request_: GenerateRequest, status: int, code: str, param: str
) -> None:
    with pytest.raises(ClientError) as caught:
        await collect(client.generate(request_))
    assert (caught.value.status, caught.value.code, caught.value.param) == (status, code, param)
    assert type(caught.value) is ClientError


async def test_a_number_no_wire_can_hold_is_refused(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        await collect(client.generate(asking(seed=2**70)))
    assert caught.value.status == 400


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_nobody_there_is_unreachable(scheme: str) -> None:
    with socket.socket() as held:  # bound but not listening: refused, and nobody else can take it
        held.bind(("127.0.0.1", 0))
        async with connect(f"{scheme}://127.0.0.1:{held.getsockname()[1]}") as client:
            with pytest.raises(Unreachable, match="nothing answers at"):
                await client.models()


async def test_leaving_a_stream_cancels_it_at_the_server(client: Client, fake: FakeServer) -> None:
    fake.behave(gap=0.2)
    async with aclosing(client.generate(asking(max_tokens=100))) as pieces:
        assert (await anext(pieces)).text == "w7.0 "
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_models_and_tokens(client: Client) -> None:
    (card,) = await client.models()
    assert {name: getattr(card, name) for name in CARD} == CARD
    assert await client.tokenize("once upon a time") == (4, 4, 1, 4)


async def test_streams_of_grpc_share_a_call(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.behave(first_token=0.2)
    async with connect(fake.grpc) as client:
        answers = await asyncio.gather(*(collect(client.generate(asking(seed=i))) for i in range(150)))
        assert fake.calls == 1
        assert [answer.choices[0].text for answer in answers] == [f"w{i}.0 w{i}.1 w{i}.2 w{i}.3 " for i in range(150)]
        monkeypatch.setattr("client.many.IDLE_SECONDS", 0.05)
        await collect(client.generate(asking()))
        assert fake.calls == 1, "it waits for more"
        while fake.open_calls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await collect(client.generate(asking()))
        assert fake.calls == 2, "and ends when nothing comes"


@pytest.mark.parametrize("bounds", [{"MOST_REQUESTS": 2}, {"MOST_BYTES": 10}], ids=["full", "large"])
async def test_a_call_of_grpc_is_not_overfilled(
    bounds: dict[str, int], fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of so many requests, or of one that a server might not take."""
    for name, value in bounds.items():
        monkeypatch.setattr(f"client.many.{name}", value)
        monkeypatch.setattr(f"client.rpc.{name}", value, raising=False)
    fake.behave(gap=0.05)
    async with connect(fake.grpc) as client:
        answers = await asyncio.gather(*(collect(client.generate(asking(seed=i))) for i in range(4)))
        assert fake.calls == (2 if "MOST_REQUESTS" in bounds else 4)
    assert [answer.choices[0].text for answer in answers] == [f"w{i}.0 w{i}.1 w{i}.2 w{i}.3 " for i in range(4)]


async def test_a_message_of_grpc_has_no_more_actions_than_a_server_takes(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.many.MOST_ACTIONS", 20)
    async with connect(fake.grpc) as client:
        await asyncio.gather(*(collect(client.generate(asking(seed=i))) for i in range(50)))
    assert (fake.calls, fake.most_actions) == (1, 20)


async def test_a_call_of_grpc_that_is_old_takes_no_more(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.behave(gap=0.1)
    async with connect(fake.grpc) as client:
        first = client.generate(asking(seed=1))
        assert (await anext(first)).text == "w1.0 "
        monkeypatch.setattr("client.many.MOST_SECONDS", 0.0)
        assert (await collect(client.generate(asking(seed=2)))).choices[0].text == "w2.0 w2.1 w2.2 w2.3 "
        assert fake.calls == 2
        assert [piece.text async for piece in first] == ["w1.1 ", "w1.2 ", "w1.3 "], "what it has goes on"


async def test_a_call_of_grpc_ends_when_all_is_quiet_and_not_before(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that ended together before do not end it under one that came after them."""
    monkeypatch.setattr("client.many.IDLE_SECONDS", 0.05)
    async with connect(fake.grpc) as client:
        for _ in range(3):
            await asyncio.gather(*(collect(client.generate(asking(seed=i))) for i in range(5)))
        fake.behave(gap=0.05)
        async with aclosing(client.generate(asking(seed=6, max_tokens=100))) as pieces:
            for _ in range(6):
                await anext(pieces)
            assert not fake.cancelled.is_set()
        await asyncio.wait_for(fake.cancelled.wait(), 5)
        assert fake.calls == 1 and len(client._calls[0]._events) <= 1  # type: ignore[attr-defined]


async def test_leaving_one_stream_of_grpc_lets_the_others_be(fake: FakeServer) -> None:
    fake.behave(gap=0.1)
    async with connect(fake.grpc) as client:
        other = asyncio.create_task(collect(client.generate(asking(seed=1))))
        async with aclosing(client.generate(asking(seed=2, max_tokens=100))) as pieces:
            assert (await anext(pieces)).text == "w2.0 "
        await asyncio.wait_for(fake.cancelled.wait(), 5)
        assert (await other).choices[0].text == "w1.0 w1.1 w1.2 w1.3 " and fake.calls == 1


async def test_every_stream_of_a_call_that_breaks_is_cut() -> None:
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(FakeServer(Script(gap=0.05)))
        client = await stack.enter_async_context(connect(fake.grpc))
        streams = [client.generate(asking(seed=i, max_tokens=100)) for i in range(3)]
        for stream in streams:
            await anext(stream)
        fake.behave(first_token=60.0)
        late = asyncio.create_task(collect(client.generate(asking(seed=3))))
        while 3 not in fake.times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await fake.break_grpc()
        for stream in streams:
            with pytest.raises(StreamCut):
                while True:
                    await anext(stream)
        with pytest.raises(Unreachable):
            await late


@pytest.mark.parametrize("target", ["localhost:8000", "ftp://x:1", "http://", ""])
async def test_a_target_must_name_a_place(target: str) -> None:
    with pytest.raises(TargetError, match="http://HOST:PORT or grpc://HOST:PORT"):
        connect(target)


def test_facts_go_through_json_and_back() -> None:
    told = facts(3, 4)
    told["routing"]["token_routing"] = {"expert_ids": "AQACAA==", "tokens": 1, "layers": 1, "top_k": 2}
    value = facts_from_json(told)
    assert value.routing is not None and value.routing.token_routing is not None
    assert value.routing.token_routing.array().tolist() == [[[1, 2]]]
    assert facts_from_json(facts_to_json(value)) == value


def test_gates_of_single_tokens_are_weights() -> None:
    told = facts(3, 4)
    packed = {"expert_ids": "AwAAAA==", "gates": "ADgANA==", "start": 4, "tokens": 1, "layers": 1, "top_k": 2}
    told["routing"]["token_routing"] = {**packed, "truncated": True}
    value = facts_from_json(told)
    assert value.routing is not None and value.routing.token_routing is not None
    assert value.routing.token_routing.array().tolist() == [[[3, 0]]]
    assert value.routing.token_routing.weights().tolist() == [[[0.5, 0.25]]]
    assert (value.routing.token_routing.start, value.routing.token_routing.truncated) == (4, True)
    assert facts_from_json(facts_to_json(value)) == value


def test_an_older_server_tells_less() -> None:
    told = facts(3, 4)
    del told["compute"], told["latency"]["delayed"], told["cache"]["byte_seconds"], told["routing"]["summary"]
    value = facts_from_json(told)
    assert value.compute is None and value.latency is not None and value.latency.delayed == 0.0
