"""A server whose every answer and every delay can be worked out by hand, on both transports at once.

`python -m tests.client.fake_server` is the same as a process, with the flags of `python -m server` that it needs.

A request for n tokens gets n words: the first `first_token` seconds after it arrived, each further one `gap` later.
Word i of a request with seed s is "w{s}.{i} ", its token id is i. A prompt has as many tokens as words (or ids).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import grpc
import orjson
from aiohttp import web

from dyno.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from tests.client.answers import CARD, LOAD, facts
from tests.client.fake_rpc import Servicer

# gRPC cancels calls at random where more than a thousand wait to be picked up.
_PATIENT = [("grpc.server.max_pending_requests", 10_000), ("grpc.server.max_pending_requests_hard_limit", 10_000)]


DRAINING = (503, "draining", "", "the server is shutting down")


@dataclass(frozen=True)
class Script:
    """How the server behaves; seconds and counts of tokens."""

    first_token: float = 0.0
    gap: float = 0.0
    models: tuple[str, ...] = ("fake",)
    slowdown: dict[str, float] = field(default_factory=dict)  # by model: every delay times this
    cut_after: int | None = None  # the stream ends here without its last word
    fault_after: int | None = None  # the stream ends here with an error event
    busy: tuple[str, ...] = ()  # these models refuse nine requests of ten
    dead: bool = False  # every connection is closed without a word
    draining: bool = False  # REST answers, that nothing is served any more
    extension: bool = True  # whether REST knows the `dyno` field, and has it in its cards
    strict: bytes = b""  # REST refuses a body with that field in these words

    def refusal(self, model: str, max_tokens: int, seed: int = 0) -> tuple[int, str, str, str] | None:
        """(status, code, param, message) of what is wrong with a request."""
        if model and model not in self.models:
            return 404, "model_not_found", "model", f"model {model!r} is not served"
        if self.draining:
            return DRAINING
        if model in self.busy and seed % 10:
            return 429, "queue_full", "", "the queue is full"
        if max_tokens > CARD["context"]:
            return 400, "invalid_value", "max_tokens", f"max_tokens must be at most 256, got {max_tokens}"
        return None

    async def words(self, model: str, count: int, seed: int) -> AsyncIterator[str]:
        factor = self.slowdown.get(model, 1.0)
        for i in range(count):
            await asyncio.sleep((self.gap if i else self.first_token) * factor)
            yield f"w{seed}.{i} "


def prompt_length(prompt: str | list[int] | list[dict[str, str]]) -> int:
    return len(prompt.split()) if isinstance(prompt, str) else len(prompt)


class FakeServer:
    """Both listeners, on free ports.

    `seen` has (transport, request) of every generation, in order of arrival. `times` has by seed when one arrived and
    when each of its words was ready, by `time.perf_counter`: what a client should measure, however busy the machine.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.seen: list[tuple[str, Any]] = []
        self.times: dict[int, list[float]] = {}
        self.cancelled = asyncio.Event()  # set when a client leaves a stream
        self.calls = self.open_calls = 0  # of GenerateMany
        self.most_actions = 0  # in a message of theirs
        self.ready = True
        self.http = self.grpc = ""

    def behave(self, **changes: Any) -> None:
        self.script = replace(self.script, **changes)

    async def words(self, model: str, count: int, seed: int) -> AsyncIterator[str]:
        """The script's words, timed."""
        times = self.times[seed] = [time.perf_counter()]
        async for word in self.script.words(model, count, seed):
            times.append(time.perf_counter())
            yield word

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(
            [
                web.get("/readyz", self._readyz),
                web.get("/seen", self._seen),
                web.get("/v1/models", self._models),
                web.get("/v1/routing", self._routing),
                web.post("/v1/completions", self._generate),
                web.post("/v1/chat/completions", self._generate),
                web.post("/tokenize", self._tokenize),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.http = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._rpc = grpc.aio.server(options=_PATIENT)
        add_InferenceServiceServicer_to_server(Servicer(self), self._rpc)  # type: ignore[abstract]
        self.grpc = f"grpc://127.0.0.1:{self._rpc.add_insecure_port('127.0.0.1:0')}"
        await self._rpc.start()
        return self

    async def __aexit__(self, *exit: object) -> None:
        await self._rpc.stop(0)
        await self._runner.cleanup()

    async def break_grpc(self) -> None:
        """The gRPC port is gone from one moment to the next."""
        await self._rpc.stop(0)

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def _seen(self, request: web.Request) -> web.Response:
        """How many generations there were; for tests in another process."""
        return web.Response(text=str(len(self.seen)))

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self.script.dead:
            return _closed(request)
        if self.script.draining:
            return web.json_response({"error": _error(DRAINING)}, status=DRAINING[0])
        ours = {"dyno": CARD} if self.script.extension else {}
        data = [{"id": name, "object": "model", "max_model_len": 256, **ours} for name in self.script.models]
        return web.json_response({"object": "list", "data": data})

    async def _routing(self, request: web.Request) -> web.StreamResponse:
        """Two loads, and the last word unless the script cuts it."""
        self.seen.append(("rest", dict(request.query)))
        if refusal := self.script.refusal(request.query.get("model", ""), 1):
            return web.json_response({"error": _error(refusal)}, status=refusal[0])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(2):
            await response.write(event(LOAD))
        if self.script.fault_after is not None:
            await response.write(event({"error": _error((500, "internal_error", "", "the server failed"))}))
        elif self.script.cut_after is None:
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _tokenize(self, request: web.Request) -> web.Response:
        words = (await request.json())["prompt"].split()
        return web.json_response({"tokens": [len(word) for word in words]})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.script.dead:
            return _closed(request)
        self.seen.append(("rest", body))
        if self.script.strict and "dyno" in body:
            return web.Response(status=400, body=self.script.strict)
        if refusal := self.script.refusal(body.get("model", ""), body["max_tokens"], body.get("seed") or 0):
            return web.json_response({"error": _error(refusal)}, status=refusal[0])
        headers = {"content-type": "text/event-stream", "x-request-id": "r1"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            await self._stream(response, body)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return response

    async def _stream(self, response: web.StreamResponse, body: dict[str, Any]) -> None:
        count, sent = body["max_tokens"], 0
        async for word in self.words(body.get("model", ""), count, body.get("seed") or 0):
            if sent == self.script.cut_after:
                return
            if sent == self.script.fault_after:
                await response.write(event({"error": _error((500, "internal_error", "", "the server failed"))}))
                return
            sent += 1
            await response.write(event(self._chunk(body, word, sent, last=sent == count)))
        usage = {"prompt_tokens": prompt_length(_prompt(body)), "completion_tokens": count}
        await response.write(event({"id": "cmpl-r1", "choices": [], "usage": usage}) + b"data: [DONE]\n\n")

    def _chunk(self, body: dict[str, Any], word: str, place: int, *, last: bool) -> dict[str, Any]:
        text = {"delta": {"content": word}} if "messages" in body else {"text": word}
        choice: dict[str, Any] = {"index": 0, **text, "finish_reason": "length" if last else None}
        if self.script.extension and "dyno" in body:
            choice["token_ids"] = [place - 1]
        chunk: dict[str, Any] = {"id": "cmpl-r1", "choices": [choice]}
        if last and self.script.extension and "dyno" in body:
            chunk["dyno"] = facts(prompt_length(_prompt(body)), body["max_tokens"])
            if body["dyno"]["routing"] == "none":
                chunk["dyno"]["routing"] = None
        return chunk


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """A server that takes connections and never says a word; where it is, over REST."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def _closed(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _prompt(body: dict[str, Any]) -> Any:
    return body.get("prompt") or body["messages"]


def _error(refusal: tuple[int, str, str, str]) -> dict[str, Any]:
    _, code, param, message = refusal
    return {"message": message, "type": "invalid_request_error", "param": param or None, "code": code}


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    slowdown = {name: float(factor) for name, _, factor in (one.partition("=") for one in options.slow)}
    script = Script(options.first_token, options.gap, tuple(options.model), slowdown)
    async with FakeServer(script) as fake:
        fake.ready = not options.never_ready
        print(f"listening http={fake.http.partition('//')[2]} grpc={fake.grpc.partition('//')[2]}", flush=True)
        await stop.wait()
        if options.deaf:
            await asyncio.sleep(60)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--first-token", type=float, default=0.0)
    parser.add_argument("--gap", type=float, default=0.0)
    parser.add_argument("--slow", action="append", default=[], metavar="MODEL=FACTOR")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--deaf", action="store_true", help="do not end on SIGTERM")
    parser.add_argument("--broken", action="store_true", help="end at once with an error")
    options, _ = parser.parse_known_args()
    if options.broken:
        sys.exit("fake: no such model")
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
