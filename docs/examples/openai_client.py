"""Asks a Dyno server with OpenAI's client (pip install openai).

DYNO_URL is where it is, DYNO_API_KEY a key where it asks for one.
"""

from __future__ import annotations

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("DYNO_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("DYNO_API_KEY", "none"),
)

stream = client.completions.create(
    model="tales-moe",
    prompt="Once upon a time",
    max_tokens=8,
    seed=4,
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"top_k": 40, "dyno": {"routing": "summary"}},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].text, end="", flush=True)
    if getattr(chunk, "dyno", None):
        print(f"\nfirst token after {chunk.dyno['latency']['first_token'] * 1000:.1f} ms")
    if chunk.usage:
        print(f"{chunk.usage.completion_tokens} tokens")
