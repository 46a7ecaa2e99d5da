"""The client over REST: OpenAI's paths, server-sent events, and Dyno's facts in the `dyno` extension."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson

from client.access import Access, untrusted, untrusted_why
from client.api import Client, ClientError, Conversation, GenerateRequest, ModelCard, Piece, StreamCut, Unreachable
from client.facts import Facts, Usage, facts_from_json
from client.live import RoutingLoad, load_from_json
from client.sse import EventParser

_DONE = b"[DONE]"
_ACCEPT = "application/json, text/event-stream"
_REFUSED, _EXTENSION = (400, 422), re.compile(r"\bdyno\b")  # how a server refuses a field that it does not know
_QUOTED = 200  # bytes of an error that does not have OpenAI's form
# No total time: a stream may be long. Reaching the server must not be.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)


class RestClient(Client):
    """Talks to any OpenAI-compatible server; gets facts from Dyno's."""

    def __init__(self, target: str, access: Access) -> None:
        """`target` is http://HOST:PORT or https://…, with or without a trailing /v1."""
        self._target = target.rstrip("/").removesuffix("/v1")
        self._access = access
        self._extended = True  # until the server has refused the extension object
        self._session: aiohttp.ClientSession | None = None

    @property
    def target(self) -> str:
        return self._target

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        path = "/v1/chat/completions" if isinstance(request.prompt, Conversation) else "/v1/completions"
        async with AsyncExitStack() as stack:
            response = await self._begin(stack, path, request)
            choices = _Choices(response.headers.get("x-request-id", ""))
            async for event in _events(response):
                if event == _DONE:
                    for piece in choices.unended():
                        yield piece
                    return
                for piece in choices.pieces(_object(event)):
                    yield piece
        raise StreamCut("the stream ended without [DONE]")

    async def _begin(self, stack: AsyncExitStack, path: str, request: GenerateRequest) -> aiohttp.ClientResponse:
        """The answer to a request, open until `stack` is closed. Where the extension object is refused, the request is
        sent again without it; if that is answered, this client never sends it again."""
        if self._extended and request.routing is not None:
            try:
                return await stack.enter_async_context(self._answer("POST", path, generate_body(request)))
            except ClientError as refusal:
                if refusal.status not in _REFUSED or not _EXTENSION.search(f"{refusal.param} {refusal.message}"):
                    raise
        body = generate_body(replace(request, routing=None))
        response = await stack.enter_async_context(self._answer("POST", path, body))
        if request.routing is not None:
            self._extended = False
        return response

    async def models(self) -> tuple[ModelCard, ...]:
        answer = await self.json("GET", "/v1/models")
        return tuple(_card(entry) for entry in answer["data"])

    async def tokenize(self, text: str, model: str = "") -> tuple[int, ...]:
        body = {"prompt": text} | ({"model": model} if model else {})
        return tuple((await self.json("POST", "/tokenize", body))["tokens"])

    async def watch_routing(self, model: str = "", interval: float = 1.0) -> AsyncGenerator[RoutingLoad, None]:
        query = urlencode({"interval": interval} | ({"model": model} if model else {}))
        async with self._answer("GET", f"/v1/routing?{query}", None) as response:
            async for event in _events(response):
                if event == _DONE:
                    return
                load = _object(event)
                if "error" in load:
                    raise _error_of(500, load)
                yield load_from_json(load)
        raise StreamCut("the stream ended without [DONE]")

    async def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What any path of the server answers, such as /v1/completions without a stream."""
        async with self._answer(method, path, body) as response:
            return _object(await response.read())

    async def text(self, path: str) -> str:
        """The plain text at a path, such as /metrics. Raises UnicodeDecodeError where it is none."""
        async with self._answer("GET", path, None, accept="text/plain") as response:
            return await response.text()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, accept: str = _ACCEPT
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with a good status; what the network does in the meantime comes out as our own errors."""
        headers = {"content-type": "application/json", "accept": accept}
        data = None if body is None else _dumps(body)
        begun = False
        try:
            async with self._open().request(method, self._target + path, data=data, headers=headers) as response:
                begun = True
                if response.status >= 400:
                    raise _refusal(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _network_error(self._target, error, begun) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = self._access.context() if self._target.startswith("https://") else True
            connector = aiohttp.TCPConnector(limit=0, ssl=context)  # the load decides how many connections there are
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector, headers=self._access.headers)
        return self._session


class _Choices:
    """What is known so far of the choices of one stream, to end those that Dyno's facts do not end."""

    def __init__(self, id: str) -> None:
        """`id`: of the request, in the server's log and traces; may be empty, and is then that of the answer."""
        self._id = id
        self._reasons: dict[int, str] = {}
        self._usage: dict[str, Any] = {}

    def pieces(self, chunk: dict[str, Any]) -> Iterator[Piece]:
        """The pieces of one chunk. Raises ClientError when it is the server's word that the request failed."""
        if "error" in chunk:
            raise _error_of(500, chunk)
        self._id = self._id or chunk.get("id") or ""
        self._usage = chunk.get("usage") or self._usage
        facts = _facts(chunk.get("dyno"))
        for choice in chunk.get("choices", ()):
            yield self._piece(choice, facts)

    def _piece(self, choice: dict[str, Any], facts: Facts | None) -> Piece:
        index = choice.get("index", 0)
        delta = choice.get("delta")
        text = (delta.get("content") if delta is not None else choice.get("text")) or ""
        if facts is not None:
            self._reasons.pop(index, None)
        elif choice.get("finish_reason") or index not in self._reasons:
            self._reasons[index] = choice.get("finish_reason") or ""
        return Piece(index, text, tuple(choice.get("token_ids") or ()), facts, self._id)

    def unended(self) -> Iterator[Piece]:
        """A last, empty piece for each choice that got no facts, with OpenAI's usage (of all choices, on the first)."""
        usage = _usage(self._usage)
        for index, reason in sorted(self._reasons.items()):
            if not reason:
                raise StreamCut(f"choice {index} ended without a finish_reason")
            yield Piece(index, "", (), Facts(reason, usage), self._id)
            usage = Usage(usage.prompt_tokens)


def generate_body(request: GenerateRequest) -> dict[str, Any]:
    """The JSON body of a streamed request; only what was asked for is in it, so that any OpenAI server takes it."""
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} | request.sampling.given()
    if "logit_bias" in body:
        body["logit_bias"] = {str(token): bias for token, bias in body["logit_bias"].items()}
    if isinstance(request.prompt, Conversation):
        body["messages"] = [{"role": m.role, "content": m.content} for m in request.prompt.messages]
    else:
        body["prompt"] = request.prompt
    named = {"model": request.model, "user": request.user, "n": request.n if request.n != 1 else None}
    body |= {name: value for name, value in named.items() if value}
    if request.routing is not None:
        body["dyno"] = {"routing": str(request.routing)}
    return body


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    parser = EventParser()
    async for chunk in response.content.iter_any():
        for event in parser.feed(chunk):
            yield event


def _dumps(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:  # a number beyond 64 bits, or half a character
        raise ClientError(str(error), status=400) from error


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ClientError("the server's answer is not JSON: is this the REST port of a model server?") from error
    if not isinstance(value, dict):
        raise ClientError("the server's answer is not a JSON object")
    return value


def _facts(data: dict[str, Any] | None) -> Facts | None:
    try:
        return None if data is None else facts_from_json(data)
    except (KeyError, TypeError) as error:
        raise ClientError(f"the server's `dyno` object is not understood: {error}") from error


def _usage(data: dict[str, Any]) -> Usage:
    details = data.get("prompt_tokens_details") or {}
    return Usage(data.get("prompt_tokens", 0), data.get("completion_tokens", 0), details.get("cached_tokens") or 0)


def _card(entry: dict[str, Any]) -> ModelCard:
    known = {name: value for name, value in entry.get("dyno", {}).items() if name in ModelCard.__dataclass_fields__}
    return ModelCard(entry["id"], **{"context": entry.get("max_model_len") or 0, **known})


def _refusal(status: int, raw: bytes) -> ClientError:
    try:
        return _error_of(status, orjson.loads(raw))
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        said = " ".join(raw[:_QUOTED].decode(errors="replace").split())
        return ClientError(f"the server answered with status {status}{said and f': {said}'}", status=status)


def _error_of(status: int, body: dict[str, Any]) -> ClientError:
    error = body["error"]
    message = error.get("message") or f"the server answered with status {status}"
    return ClientError(message, status=status, code=error.get("code") or "", param=error.get("param") or "")


def _network_error(target: str, error: Exception, begun: bool) -> ClientError:
    if begun:
        return StreamCut(f"the connection to {target} broke before the answer was whole")
    if why := untrusted_why(error):
        return Unreachable(untrusted(target, why))
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return Unreachable(f"nothing answers at {target} ({reason})")
