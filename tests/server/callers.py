"""One way to ask for a generation, two transports that carry it: every case of a test goes over both.

A wish is a dict with the proto's names: model, prompt | token_ids | messages, n, logprobs, prompt_logprobs, priority,
user, routing, seconds, the sampling fields at the top, and form, a dict with the one kind of form that is asked for.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.server.kit import Harness

KINDS = {
    400: "invalid",
    401: "unauthenticated",
    403: "denied",
    404: "not found",
    409: "exists",
    429: "exhausted",
    499: "cancelled",
    500: "internal",
    503: "unavailable",
    504: "deadline",
}
CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.NOT_FOUND: "not found",
    grpc.StatusCode.ALREADY_EXISTS: "exists",
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "exhausted",
    grpc.StatusCode.INTERNAL: "internal",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
}
READING = {"add_special_tokens", "split_special_tokens"}
OUTER = {"model", "n", "logprobs", "prompt_logprobs", "priority", "user", *READING}
FORMS = {  # what a wish calls a form of the answer → REST's field
    "json_object": "response_format",
    "json_schema": "guided_json",
    "regex": "guided_regex",
    "choice": "guided_choice",
    "grammar": "guided_grammar",
}
ROUTING = {
    "none": pb.ROUTING_DETAIL_NONE,
    "summary": pb.ROUTING_DETAIL_SUMMARY,
    "layers": pb.ROUTING_DETAIL_LAYERS,
    "tokens": pb.ROUTING_DETAIL_TOKENS,
}
FACTS = ("routing", "routing_start", "latency", "compute")


class Refused(Exception):
    """What a transport said instead of an answer, in words that both share."""

    def __init__(self, kind: str, code: str, param: str | None, message: str, retry: float | None, begun: bool) -> None:
        super().__init__(f"{kind} {code} {param}: {message}")
        self.kind, self.code, self.param, self.message = kind, code, param, message
        self.retry, self.begun = retry, begun


@dataclass
class Told:
    """One choice as the caller sees it. `facts` has the names of REST on both transports."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    prompt: list[tuple[int, float, int] | None] = field(default_factory=list)  # (id, log-probability, rank) or None


class Caller(Protocol):
    async def whole(self, **wish: Any) -> list[Told]:
        """A unary call."""
        ...

    async def stream(self, **wish: Any) -> list[Told]:
        """A streamed call, put together."""
        ...

    def pieces(self, **wish: Any) -> AsyncIterator[tuple[int, str]]:
        """A streamed call as it comes: (choice, text); closing the iterator hangs up."""
        ...


class RestCaller:
    def __init__(self, harness: Harness) -> None:
        self._session, self._url = harness.session, harness.url

    async def whole(self, **wish: Any) -> list[Told]:
        path, body = rest_request(wish)
        async with self._session.post(self._url + path, json=body) as response:
            if response.status != 200:
                raise refused(response.status, await response.json(), response.headers)
            return [self._told(choice, answer) for answer in [await response.json()] for choice in answer["choices"]]

    async def stream(self, **wish: Any) -> list[Told]:
        told: dict[int, Told] = {}
        async for event in self.events(**wish):
            for choice in event["choices"]:
                read_chunk(told.setdefault(choice["index"], Told()), choice, event.get("dyno"))
        return [told[index] for index in sorted(told)]

    async def pieces(self, **wish: Any) -> AsyncIterator[tuple[int, str]]:
        async for event in self.events(**wish):
            for choice in event["choices"]:
                yield choice["index"], chunk_text(choice)

    async def events(self, **wish: Any) -> AsyncIterator[dict[str, Any]]:
        """The JSON of every event; the stream must end with exactly one [DONE]."""
        path, body = rest_request({**wish, "stream": True})
        async with self._session.post(self._url + path, json=body) as response:
            if response.status != 200:
                raise refused(response.status, await response.json(), response.headers)
            done = False
            async for line in response.content:
                if line == b"\n":
                    continue
                assert line.startswith(b"data: ") and not done, line
                if line == b"data: [DONE]\n":
                    done = True
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    assert (await response.content.read()).strip() == b"", "an error is the last word"
                    raise refused(0, event, {}, begun=True)
                yield event
            assert done, "the stream ended without [DONE]"

    @staticmethod
    def _told(choice: dict[str, Any], answer: dict[str, Any]) -> Told:
        facts = answer["dyno"]["choices"][choice["index"]]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        logprobs = (choice["logprobs"] or {}).get("token_logprobs") or []
        prompt = rest_scores(choice)
        return Told(text, choice["token_ids"], choice["finish_reason"], unpacked(facts), [text], logprobs, prompt)


class RpcCaller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = InferenceServiceStub(channel)

    async def whole(self, **wish: Any) -> list[Told]:
        try:
            answer = await self._stub.Generate(rpc_request(wish), timeout=wish.get("seconds"))
        except grpc.aio.AioRpcError as error:
            raise rpc_refused(error, begun=False) from None
        return [self._told(choice) for choice in answer.choices]

    async def stream(self, **wish: Any) -> list[Told]:
        told: dict[int, Told] = {}
        async for message in self._messages(wish):
            choice = told.setdefault(message.index, Told())
            choice.pieces.append(message.text)
            choice.text += message.text
            choice.tokens += [token.id for token in message.tokens]
            choice.logprobs += [token.logprob for token in message.tokens if token.HasField("logprob")]
            choice.prompt += rpc_scores(message.prompt)
            if message.HasField("finished"):
                choice.facts = rpc_facts(message.finished)
                choice.reason = choice.facts["finish_reason"]
        return [told[index] for index in sorted(told)]

    async def pieces(self, **wish: Any) -> AsyncIterator[tuple[int, str]]:
        async for message in self._messages(wish):
            yield message.index, message.text

    async def _messages(self, wish: dict[str, Any]) -> AsyncIterator[pb.StreamGenerateResponse]:
        request = pb.StreamGenerateRequest(request=rpc_request(wish))
        call, begun = self._stub.StreamGenerate(request, timeout=wish.get("seconds")), False
        try:
            async for message in call:
                begun = True
                yield message
        except grpc.aio.AioRpcError as error:
            raise rpc_refused(error, begun) from None
        finally:
            call.cancel()

    @staticmethod
    def _told(choice: pb.Choice) -> Told:
        facts = rpc_facts(choice.finished)
        tokens = [token.id for token in choice.tokens]
        logprobs = [token.logprob for token in choice.tokens if token.HasField("logprob")]
        prompt = rpc_scores(choice.prompt)
        return Told(choice.text, tokens, facts["finish_reason"], facts, [choice.text], logprobs, prompt)


class ManyCaller(RpcCaller):
    """Streams over GenerateMany, a call each; hanging up ends the call. What is unary is as it was."""

    async def _messages(self, wish: dict[str, Any]) -> AsyncIterator[pb.StreamGenerateResponse]:
        start, tag = pb.GenerateStart(request=rpc_request(wish), timeout_seconds=wish.get("seconds")), 7
        call, begun, ended = self._stub.GenerateMany(), False, False
        try:
            await call.write(pb.GenerateManyRequest(actions=[pb.GenerateAction(tag=tag, start=start)]))
            await call.done_writing()
            async for message in call:
                for event in message.events:
                    assert event.tag == tag and not ended
                    if event.HasField("piece"):
                        begun = True
                        yield event.piece
                        continue
                    ended = True
                    if event.end.code:
                        raise end_refused(event.end, begun)
            assert ended, "the call ended without an end of its request"
        except grpc.aio.AioRpcError as error:
            raise rpc_refused(error, begun) from None
        finally:
            call.cancel()


def rest_scores(choice: dict[str, Any]) -> list[tuple[int, float, int] | None]:
    """The prompt's tokens: the first of each place is the token itself."""
    scores = choice.get("prompt_logprobs") or []
    firsts = [None if place is None else next(iter(place.items())) for place in scores]
    return [None if first is None else (int(first[0]), first[1]["logprob"], first[1]["rank"]) for first in firsts]


def rpc_scores(tokens: Iterable[pb.Token]) -> list[tuple[int, float, int] | None]:
    return [(token.id, token.logprob, token.rank) if token.HasField("logprob") else None for token in tokens]


def rest_request(wish: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "form" in wish:
        [(kind, value)] = wish["form"].items()
        wish = {name: wish[name] for name in wish if name != "form"}
        wish[FORMS[kind]] = {"type": kind} if kind == "json_object" else value
    body = {name: value for name, value in wish.items() if name not in ("token_ids", *FACTS, "seconds")}
    body["dyno"] = {name: wish[name] for name in FACTS if name in wish}
    if "token_ids" in wish:
        body["prompt"] = wish["token_ids"]
    return ("/v1/chat/completions" if "messages" in wish else "/v1/completions"), body


def rpc_request(wish: dict[str, Any]) -> pb.GenerateRequest:
    outer = {name: value for name, value in wish.items() if name in OUTER}
    inner = set(pb.SamplingParameters.DESCRIPTOR.fields_by_name)
    sampling = {name: value for name, value in wish.items() if name in inner}
    if isinstance(sampling.get("stop"), str):
        sampling["stop"] = [sampling["stop"]]
    if "logit_bias" in sampling:
        sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"].items()}
    request = pb.GenerateRequest(**outer, sampling=pb.SamplingParameters(**sampling))
    if "form" in wish:
        request.guidance.CopyFrom(rpc_form(**wish["form"]))
    wishes = {name: wish[name] for name in FACTS if name in wish}
    if "routing" in wishes:
        wishes["routing"] = ROUTING[wishes["routing"]]
    if wishes:
        request.dyno.CopyFrom(pb.DynoOptions(**wishes))
    if "prompt" in wish:
        request.prompt = wish["prompt"]
    if "token_ids" in wish:
        request.token_ids.CopyFrom(pb.TokenIds(ids=wish["token_ids"]))
    if "messages" in wish:
        messages = [pb.Message(**message) for message in wish["messages"]]
        request.conversation.CopyFrom(pb.Conversation(messages=messages))
    return request


def rpc_form(choice: list[str] | None = None, json_object: bool = False, **texts: str) -> pb.Guidance:
    form = pb.Guidance(**texts)
    if choice is not None:
        form.choice.CopyFrom(pb.Choices(texts=choice))
    if json_object:
        form.json_object.SetInParent()
    return form


def refused(status: int, body: dict[str, Any], headers: Any, begun: bool = False) -> Refused:
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
    error = body["error"]
    kind = KINDS.get(status, str(status)) if status else error["code"]
    retry = float(headers["retry-after"]) if "retry-after" in headers else None
    return Refused(kind, error["code"], error["param"], error["message"], retry, begun)


def rpc_refused(error: grpc.aio.AioRpcError, begun: bool) -> Refused:
    status = rpc_status.from_call(error)
    return _refused(error.code(), error.details() or "", () if status is None else status.details, begun)


def end_refused(end: pb.GenerateEnd, begun: bool) -> Refused:
    code = next(code for code in grpc.StatusCode if code.value[0] == end.code)
    return _refused(code, end.message, end.details, begun)


def _refused(code: grpc.StatusCode, message: str, details: Iterable[AnyMessage], begun: bool) -> Refused:
    reason, param, retry = "", None, None
    for detail in details:
        for kind in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()):
            if detail.Unpack(kind):
                reason = getattr(kind, "reason", reason)
                param = kind.field_violations[0].field if hasattr(kind, "field_violations") else param
                retry = kind.retry_delay.ToSeconds() if hasattr(kind, "retry_delay") else retry
    return Refused(CODES.get(code, code.name), reason.lower(), param, message, retry, begun)


def read_chunk(told: Told, choice: dict[str, Any], facts: dict[str, Any] | None) -> None:
    told.pieces.append(chunk_text(choice))
    told.text += chunk_text(choice)
    told.tokens += choice["token_ids"]
    told.logprobs += (choice["logprobs"] or {}).get("token_logprobs") or []
    told.reason = choice["finish_reason"] or told.reason
    told.prompt += rest_scores(choice)
    told.facts = unpacked(facts) if facts else told.facts


def unpacked(facts: dict[str, Any]) -> dict[str, Any]:
    """The bytes that JSON cannot hold, as bytes."""
    packed = (facts["routing"] or {}).get("token_routing")
    if packed:
        packed["expert_ids"], packed["gates"] = b64decode(packed["expert_ids"]), b64decode(packed["gates"])
    return facts


def chunk_text(choice: dict[str, Any]) -> str:
    return choice["delta"].get("content", "") if "delta" in choice else choice["text"]


def rpc_facts(finished: pb.Finished) -> dict[str, Any]:
    """Finished under the names that REST has for it."""
    names = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
    routing = None
    if finished.HasField("routing"):
        layers = [fields(layer) | {"expert_tokens": list(layer.expert_tokens)} for layer in finished.routing.layers]
        routing = {"tokens": finished.routing.tokens, "summary": fields(finished.routing.summary), "layers": layers}
        if finished.routing.HasField("token_routing"):
            routing["token_routing"] = fields(finished.routing.token_routing)
    return {
        "finish_reason": names[finished.reason],
        "usage": fields(finished.usage),
        "latency": fields(finished.latency, inter_token=fields) if finished.HasField("latency") else None,
        "cache": fields(finished.cache),
        "steps": fields(finished.steps) if finished.HasField("steps") else None,
        "compute": fields(finished.compute, flops=fields) if finished.HasField("compute") else None,
        "routing": routing,
    }


def fields(message: Any, **inner: Callable[[Any], Any]) -> dict[str, Any]:
    """`inner`: what to do with fields that are messages themselves."""
    told = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    return told | {name: read(told[name]) for name, read in inner.items()}


async def hang_up_after(caller: Caller, pieces: int, **wish: Any) -> None:
    """Read so many pieces of a stream, then leave."""
    stream = caller.pieces(**wish)
    for _ in range(pieces):
        await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]


async def leave_unanswered(caller: Caller, seconds: float, **wish: Any) -> None:
    """Make a unary call and leave before its answer."""
    call = asyncio.create_task(caller.whole(**wish))
    await asyncio.sleep(seconds)
    call.cancel()
    await asyncio.wait([call])


def connector_session() -> aiohttp.ClientSession:
    """A session whose connections close with their responses, so that leaving is seen at once."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
