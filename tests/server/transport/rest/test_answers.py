"""What OpenAI's clients read: whole answers, chunks, usage, errors, models, tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes import continuation
from tests.server.callers import RestCaller
from tests.server.conftest import SCRIPT
from tests.server.kit import CONTEXT, VOCAB, Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "hi"}
CHAT = {"model": "chat", "messages": [USER], "max_tokens": 3}


async def post(server: Harness, path: str, **body: Any) -> Any:
    async with server.session.post(server.url + path, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def get(server: Harness, path: str) -> tuple[int, Any]:
    async with server.session.get(server.url + path) as response:
        return response.status, await response.json()


async def events(server: Harness, path: str, **body: Any) -> list[Any]:
    """The events of a stream, [DONE] taken off; fails without it."""
    async with server.session.post(server.url + path, json=body | {"stream": True}) as response:
        assert response.status == 200, await response.text()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        raw = (await response.read()).decode()
    assert raw.endswith("\n\n") and raw.count("[DONE]") == 1
    lines = raw.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_a_completion_has_openai_s_shape(server: Harness) -> None:
    answer = await post(server, "/v1/completions", model="fake", prompt="abc", max_tokens=3)
    assert list(answer) == ["id", "object", "created", "model", "choices", "usage"]
    assert answer["id"].startswith("cmpl-") and answer["object"] == "text_completion" and answer["model"] == "fake"
    assert answer["created"] > 1_700_000_000
    [choice] = answer["choices"]
    assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer["usage"] == usage


async def test_a_chat_completion_has_openai_s_shape(server: Harness) -> None:
    answer = await post(server, "/v1/chat/completions", **CHAT)
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    [choice] = answer["choices"]
    assert choice.keys() == {"index", "message", "logprobs", "finish_reason"}
    assert choice["message"].keys() == {"role", "content", "refusal"}
    assert choice["message"]["role"] == "assistant"
    assert "dyno" not in answer, "the extension is asked for"


async def test_a_stream_of_chat_begins_with_the_role_and_ends_with_the_reason(server: Harness) -> None:
    chunks = await events(server, "/v1/chat/completions", **CHAT)
    assert len(chunks) == 3, "one a step, the role on the first, the reason on the last"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant" and "content" in deltas[0]
    assert all(list(delta) == ["content"] for delta in deltas[1:])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stream_of_completions_has_one_chunk_a_step(server: Harness) -> None:
    chunks = await events(server, "/v1/completions", model="story", prompt="x", max_tokens=3)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["H", "", "ä"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


async def test_usage_comes_last_when_asked_for(server: Harness) -> None:
    body = {"model": "fake", "prompt": "abc", "max_tokens": 3, "n": 2, "stream_options": {"include_usage": True}}
    *chunks, last = await events(server, "/v1/completions", **body)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert (
        last["usage"] == (await post(server, "/v1/completions", model="fake", prompt="abc", max_tokens=3, n=2))["usage"]
    )
    assert last["usage"]["prompt_tokens"] == 3 and last["usage"]["completion_tokens"] == 6


async def test_usage_comes_with_every_chunk_when_asked_for(server: Harness) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": "fake", "prompt": "abc", "max_tokens": 3, "stream_options": options}
    chunks = await events(server, "/v1/completions", **body)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]


async def test_cached_tokens_are_told(server: Harness) -> None:
    body = {"model": "fake", "prompt": "found again in the prefix cache", "max_tokens": 2}
    await post(server, "/v1/completions", **body)
    for n in (1, 2):  # what no continuation had to compute, and a prompt counts once
        usage = (await post(server, "/v1/completions", **body, n=n))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 28


async def test_several_prompts_have_their_choices_in_order(server: Harness) -> None:
    body = {"model": "fake", "max_tokens": 3, "temperature": 0, "dyno": {}}
    for prompt in (["abc", "de"], [list(b"abc"), list(b"de")]):
        answer = await post(server, "/v1/completions", **body, prompt=prompt, n=2)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        told = [choice["token_ids"] for choice in answer["choices"]]
        assert told == [continuation(p, 3, VOCAB) for p in (b"abc", b"abc", b"de", b"de")]
        assert answer["usage"]["prompt_tokens"] == 5 and answer["usage"]["completion_tokens"] == 12


async def test_more_prompts_than_allowed_are_refused(server: Harness) -> None:
    async with server.session.post(
        f"{server.url}/v1/completions", json={"model": "fake", "prompt": ["a"] * 65}
    ) as answer:
        assert answer.status == 400 and (await answer.json())["error"]["param"] == "prompt"


async def test_one_of_several_prompts_that_is_wrong_is_named(server: Harness) -> None:
    async with server.session.post(
        f"{server.url}/v1/completions", json={"model": "fake", "prompt": ["a", ""]}
    ) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["param"]) == (400, "prompt") and "prompt[1]" in error["message"]


async def test_a_chat_without_a_limit_may_fill_the_context(server: Harness) -> None:
    answer = await post(server, "/v1/chat/completions", model="chat", messages=[USER], ignore_eos=True)
    assert answer["usage"]["total_tokens"] == CONTEXT
    short = await post(server, "/v1/chat/completions", model="chat", messages=[USER], max_completion_tokens=2)
    assert short["usage"]["completion_tokens"] == 2


async def test_content_may_come_in_parts_and_the_developer_is_the_system(server: Harness) -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    one = [{"role": "developer", "content": parts}, USER]
    other = [{"role": "system", "content": "Be kind."}, USER]
    told = [await post(server, "/v1/chat/completions", **CHAT | {"messages": m}) for m in (one, other)]
    assert told[0]["usage"]["prompt_tokens"] == told[1]["usage"]["prompt_tokens"] == 37
    assert told[0]["choices"] == told[1]["choices"]


async def test_log_probabilities_of_completions(server: Harness) -> None:
    body = {"model": "story", "prompt": "x", "max_tokens": 4, "logprobs": 1}
    whole = (await post(server, "/v1/completions", **body))["choices"][0]["logprobs"]
    assert whole["tokens"] == ["H", "\ufffd", "\ufffd", "n"]
    assert whole["token_logprobs"] == [-b / 8 for b in SCRIPT[:4]]
    assert whole["top_logprobs"] == [{t: -b / 8} for t, b in zip(whole["tokens"], SCRIPT, strict=False)]
    assert whole["text_offset"] == [0, 1, 1, 2]
    chunks = await events(server, "/v1/completions", **body)
    assert [chunk["choices"][0]["logprobs"]["tokens"] for chunk in chunks] == [["H"], ["\ufffd"], ["\ufffd"], ["n"]]


async def test_log_probabilities_of_chat(server: Harness) -> None:
    body = CHAT | {"logprobs": True, "top_logprobs": 1}
    content = (await post(server, "/v1/chat/completions", **body))["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    first = content[0]
    assert first.keys() == {"token", "logprob", "bytes", "top_logprobs"}
    assert first["top_logprobs"] == [{name: first[name] for name in ("token", "logprob", "bytes")}]
    chunks = await events(server, "/v1/chat/completions", **body)
    assert [chunk["choices"][0]["logprobs"]["content"][0] for chunk in chunks] == content


@pytest.mark.parametrize("extension", [{}, {"routing": None}, {"routing": "layers"}])
async def test_the_extension_tells_the_facts_of_each_choice(extension: dict[str, Any], server: Harness) -> None:
    body = {"model": "fake", "prompt": "abc", "max_tokens": 3, "n": 2, "dyno": extension}
    answer = await post(server, "/v1/completions", **body)
    assert answer["dyno"]["id"] == answer["id"].removeprefix("cmpl-")
    facts = answer["dyno"]["choices"]
    assert [fact["index"] for fact in facts] == [0, 1]
    names = {"index", "finish_reason", "usage", "latency", "cache", "steps", "compute", "routing"}
    assert facts[0].keys() == names
    phases = {"queued", "prefill", "first_token", "decode", "inter_token", "total", "forward", "delayed", "preempted"}
    assert facts[0]["latency"].keys() == phases
    kept = {"cached_tokens", "recomputed_tokens", "preemptions", "peak_bytes", "byte_seconds"}
    assert facts[0]["cache"].keys() == kept
    assert facts[0]["routing"].keys() == {"tokens", "summary", "layers"}
    assert sum(facts[0]["routing"]["layers"][0]["expert_tokens"]) == 5 * 2
    chunks = await events(server, "/v1/completions", **body)
    told = [chunk for chunk in chunks if "dyno" in chunk]
    assert sorted(chunk["dyno"]["index"] for chunk in told) == [0, 1], "on the last chunk of each"
    assert all(chunk["choices"][0]["finish_reason"] for chunk in told)
    assert all(len(chunk["choices"][0]["token_ids"]) == 1 for chunk in chunks)


async def test_text_that_looks_like_an_event_stays_text() -> None:
    tricky = "a\n\ndata: [DO" + "NE]\r\n\r\n: \u2028 event: x\n\n"
    async with running(fake_model(script=tricky.encode())) as server:
        [told] = await RestCaller(server).stream(prompt="x", max_tokens=100)
        assert told.text == tricky


async def test_models_have_their_cards(server: Harness) -> None:
    status, listed = await get(server, "/v1/models")
    assert status == 200 and listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["fake", "slow", "story", "chat"]
    status, entry = await get(server, "/v1/models/chat")
    assert entry == listed["data"][3]
    assert (entry["object"], entry["owned_by"], entry["max_model_len"]) == ("model", "dyno", CONTEXT)
    assert (entry["root"], entry["parent"]) == ("chat", None)
    card = entry["dyno"]
    assert (card["attention"], card["position"], card["feed_forward"]) == ("multi-query", "none", "gated silu")
    assert (card["total_parameters"], card["active_parameters"], card["chat"]) == (2000, 1000, True)
    assert card["cache_bytes_per_token"] == 2 * (4 + 4) * 4
    assert card["architecture"]["width"] == 8
    assert (
        card["card"]["cache_bytes_per_token"] == card["cache_bytes_per_token"]
        and card["card"]["flops_per_token"]["1024"]
    )
    status, answer = await get(server, "/v1/models/nobody")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_a_model_may_have_a_slash_in_its_name() -> None:
    async with running(fake_model("org/name")) as server:
        assert (await get(server, "/v1/models/org/name"))[1]["id"] == "org/name"
        assert (await post(server, "/v1/completions", model="org/name", prompt="x"))["model"] == "org/name"
        assert (await post(server, "/v1/completions", prompt="x"))["model"] == "org/name", "the only one"


async def test_tokens_go_there_and_back(server: Harness) -> None:
    body = {"model": "fake", "prompt": "Bär 🐻", "add_special_tokens": False}
    answer = await post(server, "/tokenize", **body)
    assert answer == {"tokens": list("Bär 🐻".encode()), "count": 9, "max_model_len": CONTEXT}
    assert await post(server, "/detokenize", model="fake", tokens=answer["tokens"]) == {"prompt": "Bär 🐻"}
    for path, wrong in (("/detokenize", {"tokens": [VOCAB]}), ("/tokenize", {"prompt": "a\0"})):
        async with server.session.post(server.url + path, json={"model": "fake"} | wrong) as response:
            assert response.status == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/v1/completions/", 404),
        ("POST", "//v1//completions", 404),
        ("POST", "/V1/completions", 404),
        ("GET", "/v1/completions", 405),
        ("PUT", "/v1/models", 405),
        ("DELETE", "/v1/models/fake", 405),
        ("POST", "/metrics", 405),
        ("OPTIONS", "/v1/completions", 405),
        ("GET", "/a%0d%0ab", 404),
    ],
)
async def test_other_paths_and_methods_get_the_same_kind_of_body(
    method: str, path: str, status: int, server: Harness
) -> None:
    async with server.session.request(method, server.url + path) as response:
        assert response.status == status
        error = (await response.json())["error"]
        assert error.keys() == {"message", "type", "param", "code"} and "\n" not in error["message"]
        assert "x-request-id" in response.headers and "server" not in response.headers


async def test_the_state_is_told_where_it_is_allowed(server: Harness) -> None:
    status, state = await get(server, "/debug/state")
    assert status == 200 and state["calls"] == 0
    assert state["models"]["fake"]["running"] == state["models"]["fake"]["waiting"] == 0
    async with running(fake_model(), debug=False) as quiet:
        assert (await get(quiet, "/debug/state"))[0] == 404
