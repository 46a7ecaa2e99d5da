"""The client over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Any

import grpc
import orjson

from client.access import Access
from client.api import (
    Client,
    ClientError,
    Conversation,
    GenerateRequest,
    ModelCard,
    Piece,
    RoutingDetail,
    StreamCut,
)
from client.facts import (
    Cache,
    Compute,
    Facts,
    Flops,
    Latency,
    LayerRouting,
    Routing,
    RoutingSummary,
    Spread,
    Steps,
    TokenRouting,
    Usage,
)
from client.failures import broken, client_errors, end_error
from client.live import LayerLoad, RoutingLoad, measured
from client.many import MOST_BYTES, ManyCall
from client.threads import patient_threads
from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:
    from dyno.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # channels with equal arguments would share one connection behind our back
    ("grpc.enable_http_proxy", 0),  # as on REST
]
_ROUTING = {
    None: pb.ROUTING_DETAIL_NONE,
    RoutingDetail.NONE: pb.ROUTING_DETAIL_NONE,
    RoutingDetail.SUMMARY: pb.ROUTING_DETAIL_SUMMARY,
    RoutingDetail.LAYERS: pb.ROUTING_DETAIL_LAYERS,
    RoutingDetail.TOKENS: pb.ROUTING_DETAIL_TOKENS,
}

_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


class RpcClient(Client):
    """Talks to Dyno's gRPC port over one connection; generations share a call."""

    def __init__(self, target: str, access: Access) -> None:
        """`target` is grpc://HOST:PORT, or grpcs://HOST:PORT for TLS."""
        self._target = target.rstrip("/")
        self._access = access
        self._metadata = tuple(access.headers.items())
        self._calls: list[ManyCall] = []

    @property
    def target(self) -> str:
        return self._target

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        open_choices, message = set(range(request.n)), _message(request)
        with client_errors(self.target, writing=True) as progress:
            async with aclosing(self._many(message).events(message)) as events:
                async for event in events:
                    if event.HasField("end"):
                        break
                    progress.begun = True
                    piece = _piece(event.piece)
                    if piece.facts is not None:
                        open_choices.discard(piece.index)
                    yield piece
                else:
                    raise broken(self.target, begun=progress.begun)
        if event.end.code:
            raise end_error(event.end)
        if open_choices:
            raise StreamCut(f"the stream ended before choice {min(open_choices)} had ended")

    async def models(self) -> tuple[ModelCard, ...]:
        with client_errors(self.target):
            answer = await self._stub.ListModels(pb.ListModelsRequest(), metadata=self._metadata)
        return tuple(_card(model) for model in answer.models)

    async def tokenize(self, text: str, model: str = "") -> tuple[int, ...]:
        with client_errors(self.target):
            request = pb.TokenizeRequest(model=model, text=text)
            answer = await self._stub.Tokenize(request, metadata=self._metadata)
        return tuple(answer.token_ids)

    async def watch_routing(self, model: str = "", interval: float = 1.0) -> AsyncGenerator[RoutingLoad, None]:
        with client_errors(self.target) as progress:
            request = pb.WatchRoutingRequest(model=model, interval=interval)
            call = self._stub.WatchRouting(request, metadata=self._metadata)
            try:
                async for load in call:
                    progress.begun = True
                    layers = (_copy(LayerLoad, one, expert_tokens=tuple(one.expert_tokens)) for one in load.layers)
                    yield measured(_copy(RoutingLoad, load, layers=tuple(layers)))
            finally:
                call.cancel()

    async def close(self) -> None:
        for call in self._calls:
            await call.close()
        if "_channel" in vars(self):
            await self._channel.close()

    def _many(self, request: pb.GenerateRequest) -> ManyCall:
        """The call for a request: a shared one, or one of its own where the server may find it too large, and end the
        call for it."""
        self._calls = [call for call in self._calls if not call.ended]
        large = request.ByteSize() >= MOST_BYTES
        call = None if large else next((call for call in self._calls if call.open), None)
        if call is None:
            call = ManyCall(self._stub, self._metadata, shared=not large)
            self._calls.append(call)
        return call

    @cached_property
    def _stub(self) -> InferenceServiceAsyncStub:
        return InferenceServiceStub(self._channel)

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        scheme, _, address = self.target.partition("://")
        with patient_threads():  # those of the library, of which several wake for every message
            if scheme == "grpcs":
                return grpc.aio.secure_channel(address, self._access.credentials(), options=_OPTIONS)
            return grpc.aio.insecure_channel(address, options=_OPTIONS)


def _message(request: GenerateRequest) -> pb.GenerateRequest:
    try:
        return generate_message(request)
    except (ValueError, TypeError) as error:  # a number that its field cannot hold
        raise ClientError(str(error), status=400) from error


def generate_message(request: GenerateRequest) -> pb.GenerateRequest:
    """The request as the proto has it. Raises ValueError or TypeError for a value that its field cannot hold."""
    message = pb.GenerateRequest(
        model=request.model,
        sampling=pb.SamplingParameters(**request.sampling.given()),
        routing=_ROUTING[request.routing],
        user=request.user,
        n=request.n,
    )
    match request.prompt:
        case str(text):
            message.prompt = text
        case Conversation(messages):
            turns = [pb.Message(role=m.role, content=m.content) for m in messages]
            message.conversation.CopyFrom(pb.Conversation(messages=turns))
        case ids:
            message.token_ids.CopyFrom(pb.TokenIds(ids=ids))
    return message


def _piece(response: pb.StreamGenerateResponse) -> Piece:
    facts = _facts(response.finished) if response.HasField("finished") else None
    return Piece(response.index, response.text, tuple(token.id for token in response.tokens), facts, response.id)


def _facts(done: pb.Finished) -> Facts:
    return Facts(
        finish_reason=_REASONS.get(done.reason, ""),
        usage=_copy(Usage, done.usage),
        latency=_latency(done.latency) if done.HasField("latency") else None,
        cache=_copy(Cache, done.cache),
        steps=_copy(Steps, done.steps) if done.HasField("steps") else None,
        routing=_routing(done.routing) if done.HasField("routing") else None,
        compute=_compute(done.compute) if done.HasField("compute") else None,
    )


def _latency(latency: pb.Latency) -> Latency:
    value: Latency = _copy(Latency, latency, inter_token=_copy(Spread, latency.inter_token))
    return value


def _compute(compute: pb.Compute) -> Compute:
    value: Compute = _copy(Compute, compute, flops=_copy(Flops, compute.flops))
    return value


def _routing(routing: pb.Routing) -> Routing:
    layers = tuple(_copy(LayerRouting, one, expert_tokens=tuple(one.expert_tokens)) for one in routing.layers)
    detail = _copy(TokenRouting, routing.token_routing) if routing.HasField("token_routing") else None
    summary = _copy(RoutingSummary, routing.summary) if routing.HasField("summary") else None
    return Routing(routing.tokens, layers, detail, summary)


def _copy(kind: type[Any], message: Any, **made: Any) -> Any:
    """A value of `kind` from the message's fields of the same names, `made` in place of those that need more."""
    return kind(**{n: made[n] if n in made else getattr(message, n) for n in kind.__dataclass_fields__})


def _card(model: pb.Model) -> ModelCard:
    architecture = orjson.loads(model.architecture_json) if model.architecture_json else {}
    card = orjson.loads(model.card_json) if model.card_json else {}
    names = (name for name in ModelCard.__dataclass_fields__ if name not in ("architecture", "card"))
    return ModelCard(**{name: getattr(model, name) for name in names}, architecture=architecture, card=card)
