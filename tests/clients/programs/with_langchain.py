"""langchain-openai against the server at DYNO_URL."""

from __future__ import annotations

import os

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI

URL = os.environ["DYNO_URL"] + "/v1"

completion = OpenAI(base_url=URL, api_key="none", model="tales-dense", max_tokens=8, seed=4)
text = completion.invoke("Once upon a time")
assert text and "".join(completion.stream("Once upon a time")) == text
assert len(completion.batch(["Once", "The king"])) == 2

chat = ChatOpenAI(base_url=URL, api_key="none", model="chat", max_tokens=8, seed=4, stream_usage=True)
answer = chat.invoke([("system", "You tell tales."), ("user", "Tell me one.")])
assert answer.usage_metadata and answer.usage_metadata["output_tokens"] == 8
chunks = list(chat.stream([("system", "You tell tales."), ("user", "Tell me one.")]))
assert "".join(chunk.content for chunk in chunks) == answer.content
assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 8
more = chat.invoke([HumanMessage("Tell me one.", name="listener"), answer, HumanMessage("And then?")])
assert more.usage_metadata and more.usage_metadata["output_tokens"] == 8
print("langchain holds")
