"""How a stream is made: whole characters, no piece of a stop string, an end that is told once, a cut that is seen."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.engine.step import Row
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller
from tests.server.kit import VOCAB, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

LETTERS = [
    "a",
    "b",
    "ab",
    "aab",
    "é",
    "ß",
    "中",
    "文",
    "🐻",
    "👩\u200d👧",
    "e\u0301",
    " ",
    "\n",
    "\r",
    "\u2028",
    "data: ",
    '"',
    "\\",
]


def written(seed: int) -> str:
    """A text in which everything that a stream must carry unharmed comes up."""
    return "".join(random.Random(seed).choices(LETTERS, k=40))


def stops_in(seed: int) -> list[str]:
    """Stop strings: pieces of the text and of other texts, overlapping each other."""
    rng, text = random.Random(1000 + seed), written(seed)
    starts = [rng.randrange(len(text)) for _ in range(3)]
    return [text[start : start + rng.randint(1, 5)] for start in starts] + [written(seed + 1)[:3]]


def shown(text: str, stops: list[str], include: bool) -> str:
    """What of a text may be seen: up to the stop string that is complete first."""
    complete = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    if not complete:
        return text
    first = min(end for end, _ in complete)  # whose last character comes first, ends the text
    seen = text[:first]
    start, end = min((seen.find(stop), seen.find(stop) + len(stop)) for stop in stops if stop in seen)
    return seen[: end if include else start]


def broken(row: Row) -> bool:
    return len(row.request.outputs) >= 5


SEEDS = range(12)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Harness]:
    """A model for every text, one that fails at its sixth token, and one that takes its time."""
    told = [fake_model(f"text {seed}", script=written(seed).encode()) for seed in SEEDS]
    async with running(*told, fake_model("broken", nan=broken, sleep=0.01), fake_model("slow", sleep=0.02)) as harness:
        yield harness


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_text_comes_unharmed(seed: int, caller: Caller) -> None:
    wish = {"model": f"text {seed}", "prompt": "x", "max_tokens": 250}
    [streamed], [whole] = await caller.stream(**wish), await caller.whole(**wish)
    assert streamed.text == whole.text == written(seed)
    assert streamed.tokens == whole.tokens == [*written(seed).encode(), VOCAB - 1]
    assert "\ufffd" not in "".join(streamed.pieces)
    assert streamed.reason == whole.reason == "stop"


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_of_a_stop_string_is_shown(seed: int, include: bool, caller: Caller) -> None:
    stops = stops_in(seed)
    wish = {"model": f"text {seed}", "prompt": "x", "max_tokens": 250, "stop": stops}
    [streamed] = await caller.stream(**wish, include_stop_str_in_output=include)
    [whole] = await caller.whole(**wish, include_stop_str_in_output=include)
    assert streamed.text == whole.text == shown(written(seed), stops, include)
    assert streamed.tokens == whole.tokens
    assert streamed.reason == whole.reason == "stop"


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 9, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
async def test_a_text_cut_short_is_a_beginning_of_it(seed: int, cut: int, caller: Caller) -> None:
    wish = {"model": f"text {seed}", "prompt": "x", "max_tokens": cut, "stop": ["never said"]}
    [streamed], [whole] = await caller.stream(**wish), await caller.whole(**wish)
    assert streamed.text == whole.text == written(seed).encode()[:cut].decode(errors="replace")
    assert streamed.reason == "length"


async def test_choices_do_not_mix(caller: Caller) -> None:
    wish = {"model": "text 3", "prompt": "x", "max_tokens": 250, "n": 4}
    assert [told.text for told in await caller.stream(**wish)] == [written(3)] * 4


async def test_a_cut_stream_does_not_look_complete(caller: Caller) -> None:
    pieces = []
    with pytest.raises(Refused) as said:
        async for _, text in caller.pieces(model="broken", prompt="abc", max_tokens=20):
            pieces.append(text)
    assert said.value.begun
    # gRPC's client may let go of a message that it has not read when an error arrives behind it.
    assert len("".join(pieces)) in ((4, 5) if isinstance(caller, RpcCaller) else (5,))
    assert said.value.kind in ("internal", "internal_error")
    with pytest.raises(Refused) as unary:
        await caller.whole(model="broken", prompt="abc", max_tokens=20)
    assert unary.value.kind == "internal"


async def raw(server: Harness, **body: object) -> str:
    body = {"model": "text 0", "prompt": "x", "max_tokens": 250, "stream": True, **body}
    async with server.session.post(f"{server.url}/v1/completions", json=body) as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return (await response.read()).decode()


@pytest.mark.parametrize("usage", [False, True])
async def test_events_are_one_line_each_and_done_comes_once(usage: bool, server: Harness) -> None:
    text = await raw(server, stream_options={"include_usage": usage, "continuous_usage_stats": usage})
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "") and text.count("[DONE]") == 1
    read = [json.loads(event.removeprefix("data: ")) for event in events]
    assert all(event.startswith("data: ") and len(event.splitlines()) == 1 for event in events if "\u2028" not in event)
    choices = [event["choices"] for event in read]
    assert [len(choice) for choice in choices] == [1] * (len(read) - usage) + [0] * usage
    reasons = [choice[0]["finish_reason"] for choice in choices if choice]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    if usage:
        counts = [event["usage"]["completion_tokens"] for event in read]
        assert counts[:-1] == list(range(1, len(read))) and counts[-1] == counts[-2]
        assert read[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        assert all(event["usage"]["total_tokens"] == event["usage"]["completion_tokens"] + 1 for event in read)
    else:
        assert not any("usage" in event for event in read)


async def test_an_error_event_is_the_last_word(server: Harness) -> None:
    text = await raw(server, model="broken")
    *events, last, rest = text.split("\n\n")
    assert rest == "" and "[DONE]" not in text and len(events) == 5
    error = json.loads(last.removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "server_error"


async def test_a_deadline_cuts_a_stream_with_its_status(channel: grpc.aio.Channel) -> None:
    stub = InferenceServiceStub(channel)
    sampling = pb.SamplingParameters(max_tokens=100, ignore_eos=True)
    request = pb.StreamGenerateRequest(request=pb.GenerateRequest(model="slow", prompt="x", sampling=sampling))
    seen = []
    with pytest.raises(grpc.aio.AioRpcError) as said:
        async for message in stub.StreamGenerate(request, timeout=0.3):
            seen.append(message)
    assert said.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert seen and not any(message.HasField("finished") for message in seen)


async def test_both_stream_the_same(callers: tuple[RestCaller, RpcCaller]) -> None:
    for seed in SEEDS:
        wish = {"model": f"text {seed}", "prompt": "x", "max_tokens": 250, "stop": stops_in(seed), "logprobs": 1}
        [rest], [rpc] = [await caller.stream(**wish) for caller in callers]
        assert (rest.text, rest.tokens, rest.reason, rest.logprobs) == (rpc.text, rpc.tokens, rpc.reason, rpc.logprobs)


async def test_nothing_of_all_this_is_left(server: Harness) -> None:
    await server.settled()
