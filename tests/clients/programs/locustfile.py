"""Users who ask for a tale as a stream and measure its tokens themselves: locust's own time ends with the headers."""

from __future__ import annotations

import json
import time

from locust import HttpUser, constant, task

BODY = {"model": "tales-dense", "prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": True, "stream": True}


class Listener(HttpUser):
    wait_time = constant(0)

    @task
    def listen(self) -> None:
        """One stream, whole; the first and the last token are counted as requests of their own."""
        begun, times, whole = time.perf_counter(), [], False
        with self.client.post("/v1/completions", json=BODY, stream=True, catch_response=True) as answer:
            for line in answer.iter_lines(chunk_size=None):  # as it comes; 512 bytes at a time otherwise
                if line == b"data: [DONE]":
                    whole = True
                elif line.startswith(b"data: ") and json.loads(line.removeprefix(b"data: "))["choices"]:
                    times.append(time.perf_counter() - begun)
            if not whole or len(times) != BODY["max_tokens"]:
                answer.failure(f"{len(times)} tokens, {'whole' if whole else 'cut off'}")
                return
        for name, seconds in (("first token", times[0]), ("last token", times[-1])):
            self._count(name, seconds)

    def _count(self, name: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context={},
        )
