"""litellm against the server at DYNO_URL."""

from __future__ import annotations

import os

import litellm

URL = os.environ["DYNO_URL"] + "/v1"
TALK = {"messages": [{"role": "user", "content": "Tell me a tale."}], "max_tokens": 8, "seed": 4}

for provider in ("hosted_vllm", "openai"):
    place = {"model": f"{provider}/chat", "api_base": URL, "api_key": "none"}
    whole = litellm.completion(**place, **TALK)
    chunks = list(litellm.completion(**place, **TALK, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text and text == whole.choices[0].message.content
    assert whole.usage.completion_tokens == 8
    answered = whole.choices[0].message
    for message in (answered, answered.model_dump()):  # with every field that litellm has for it
        more = [*TALK["messages"], message, {"role": "user", "content": "And then?", "name": "listener"}]
        assert litellm.completion(**place, **TALK | {"messages": more}).usage.completion_tokens == 8

told = litellm.text_completion(
    model="text-completion-openai/tales-dense", api_base=URL, api_key="none", prompt="Once upon a time", max_tokens=8
)
assert told.choices[0].text
try:
    litellm.completion(model="openai/nobody", api_base=URL, api_key="none", num_retries=0, **TALK)
except litellm.NotFoundError as error:
    assert "nobody" in str(error)
else:
    raise AssertionError("nobody is served")
try:
    litellm.completion(**place, messages=TALK["messages"], max_tokens=100_000, num_retries=0)
except litellm.ContextWindowExceededError as error:
    assert "maximum context length is" in str(error)
else:
    raise AssertionError("no context holds so much")
print("litellm holds")
