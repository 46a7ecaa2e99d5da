"""OpenAI's client for Python against the server at DYNO_URL. Runs in the clients' environment; ends with 1 at the first
thing that is not as OpenAI's own server would have it."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any, Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

URL = os.environ["DYNO_URL"] + "/v1"
STORY: Any = {"model": "tales-dense", "prompt": "Once upon a time", "max_tokens": 12, "seed": 4}
TALK: Any = {"model": "chat", "messages": [{"role": "user", "content": "Tell me a tale."}], "seed": 4}

client = OpenAI(base_url=URL, api_key="none", max_retries=0)


class Animal(BaseModel):
    name: Literal["fox", "wolf"]
    old: bool


def models() -> None:
    listed = [model.id for model in client.models.list()]
    assert listed == ["tales-dense", "tales-moe", "chat"], listed
    assert client.models.retrieve("tales-moe").id == "tales-moe"


def completions() -> None:
    whole = client.completions.create(**STORY)
    assert whole.object == "text_completion" and whole.usage and whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"
    several = client.completions.create(**{**STORY, "prompt": ["Once", "The king"], "n": 2})
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    ids = client.completions.create(**{**STORY, "prompt": [[14, 390], [390]]})
    assert len(ids.choices) == 2
    nothing = {"stop": None, "logprobs": None, "user": None, "suffix": None, "best_of": 1, "logit_bias": None}
    assert client.completions.create(**STORY, **nothing).choices[0].text == whole.choices[0].text
    chunks = list(client.completions.create(**STORY, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    stopped = client.completions.create(**{**STORY, "max_tokens": 200, "stop": [",", "."]})
    assert stopped.choices[0].finish_reason == "stop" and not {",", "."} & set(stopped.choices[0].text)


def logprobs() -> None:
    told = client.completions.create(**{**STORY, "max_tokens": 0, "echo": True, "logprobs": 3}).choices[0]
    assert told.text == STORY["prompt"] and told.logprobs and told.logprobs.token_logprobs
    assert told.logprobs.token_logprobs[0] is None and all(value < 0 for value in told.logprobs.token_logprobs[1:])
    chosen = client.completions.create(**STORY, temperature=0, logprobs=2).choices[0].logprobs
    assert chosen and chosen.token_logprobs and chosen.top_logprobs
    for value, best in zip(chosen.token_logprobs, chosen.top_logprobs, strict=True):
        assert math.isclose(value, max(best.values()))
    talk = client.chat.completions.create(**TALK, max_tokens=5, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert talk and talk.content and len(talk.content) == 5 and len(talk.content[0].top_logprobs) == 2


def chat() -> None:
    whole = client.chat.completions.create(**TALK, max_completion_tokens=12)
    message = whole.choices[0].message
    assert message.role == "assistant" and message.content and message.refusal is None and not message.tool_calls
    parts = [{"role": "user", "content": [{"type": "text", "text": "Tell me a tale."}]}]
    again: Any = TALK | {"messages": parts, "max_tokens": 12}
    assert client.chat.completions.create(**again).choices[0].message.content == message.content
    chunks = list(client.chat.completions.create(**TALK, max_tokens=12, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "length"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content
    history: Any = [*TALK["messages"], message.model_dump(), {"role": "user", "content": "Go on."}]
    assert client.chat.completions.create(model="chat", messages=history, max_tokens=4).choices[0].message.content


def forms() -> None:
    parsed = client.chat.completions.parse(**TALK, response_format=Animal, max_tokens=64).choices[0].message.parsed
    assert parsed is not None and parsed.name in ("fox", "wolf")
    with client.chat.completions.stream(**TALK, response_format=Animal, max_tokens=64) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    chosen = client.completions.create(**STORY, extra_body={"guided_choice": ["fox", "wolf"], "top_k": 40})
    assert chosen.choices[0].text in ("fox", "wolf")


def accounts() -> None:
    raw = client.completions.with_raw_response.create(
        **STORY, extra_body={"dyno": {"routing": "none"}}, extra_headers={"x-request-id": "mine-1"}
    )
    told: Any = raw.parse()
    assert raw.headers["x-request-id"] == "mine-1" and told.dyno["choices"][0]["latency"]["total"] > 0


def errors() -> None:
    try:
        client.completions.create(**STORY, temperature=3)
    except openai.BadRequestError as error:
        assert (error.code, error.param, error.type) == ("invalid_value", "temperature", "invalid_request_error")
    else:
        raise AssertionError("a temperature of 3 was taken")
    try:
        client.completions.create(**{**STORY, "max_tokens": 100_000})
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
    else:
        raise AssertionError("100,000 tokens were taken")
    try:
        client.models.retrieve("nobody")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("nobody is served")
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    try:
        client.chat.completions.create(**TALK, tools=[tool])  # type: ignore[list-item]
    except openai.BadRequestError as error:
        assert error.param == "tools" and error.code == "unsupported"
    else:
        raise AssertionError("a tool was taken")


async def together() -> None:
    """Sixteen at once; one of them leaves in the middle."""
    async with AsyncOpenAI(base_url=URL, api_key="none", max_retries=0) as several:

        async def one(seed: int) -> str:
            text = ""
            stream = await several.completions.create(**{**STORY, "seed": seed}, stream=True)
            async for chunk in stream:
                text += chunk.choices[0].text
                if seed == 3:
                    await stream.close()
                    break
            return text

        texts = await asyncio.gather(*(one(seed) for seed in range(16)))
        assert len(set(texts)) > 8 and texts[4] == client.completions.create(**STORY).choices[0].text


for case in (models, completions, logprobs, chat, forms, accounts, errors):
    case()
    print(case.__name__, "holds")
asyncio.run(together())
print("together", "holds")
