"""Server-sent events: what a stream begins with, the frame of an event, and the mark of a complete stream."""

from __future__ import annotations

from typing import Any

import orjson

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies: pass every event on at once
]
BEFORE, BEHIND = b"data: ", b"\n\n"
DONE = BEFORE + b"[DONE]" + BEHIND


def event(data: Any) -> bytes:
    """An event that says this in JSON."""
    return BEFORE + orjson.dumps(data) + BEHIND
