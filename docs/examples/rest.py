"""Asks a Dyno server over REST with nothing but the standard library.

DYNO_URL is where it is, DYNO_API_KEY a key where it asks for one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL = os.environ.get("DYNO_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("DYNO_API_KEY", "none")
STORY = {"model": "tales-moe", "prompt": "Once upon a time", "max_tokens": 8, "seed": 4}


def ask(path: str, body: dict[str, Any]) -> Any:
    """The open answer."""
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    return urlopen(Request(URL + path, json.dumps(body).encode(), headers))


def events(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a stream. Raises RuntimeError when it fails or is cut off."""
    with ask("/v1/completions", body | {"stream": True}) as answer:
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            data = line.removeprefix(b"data: ").strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            yield event
    raise RuntimeError("the stream was cut off")


with ask("/v1/completions", STORY | {"dyno": {}}) as answer:
    whole = json.load(answer)
print(whole["choices"][0]["text"])
told = whole["dyno"]["choices"][0]
print(f"first token after {told['latency']['first_token'] * 1000:.1f} ms")
print(f"{told['compute']['flops']['total']:,} operations")
for layer in told["routing"]["layers"][:2]:
    print(f"layer {layer['layer']}: tokens of each expert {layer['expert_tokens']}")

text = "".join(event["choices"][0]["text"] for event in events(STORY))
assert text == whole["choices"][0]["text"], "the same seed gives the same text, whole or as a stream"

try:
    ask("/v1/completions", STORY | {"temperature": 3})
except HTTPError as refusal:
    error = json.load(refusal)["error"]
    print(refusal.code, error["code"], error["param"], error["message"])
