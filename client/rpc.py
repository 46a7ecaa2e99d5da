"""The client over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import orjson
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

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
    Unreachable,
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
from client.live import LayerLoad, RoutingLoad
from client.threads import patient_threads
from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:
    from dyno.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

# A server allows about a hundred streams a connection; more would wait inside the client, unseen, and count as latency.
_STREAMS_PER_CHANNEL = 90
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # channels with equal arguments would share one connection behind our back
    ("grpc.enable_http_proxy", 0),  # as on REST
]
_DETAILS_KEY = "grpc-status-details-bin"

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

_ROUTING = {
    None: pb.ROUTING_DETAIL_NONE,
    RoutingDetail.NONE: pb.ROUTING_DETAIL_NONE,
    RoutingDetail.SUMMARY: pb.ROUTING_DETAIL_SUMMARY,
    RoutingDetail.LAYERS: pb.ROUTING_DETAIL_LAYERS,
    RoutingDetail.TOKENS: pb.ROUTING_DETAIL_TOKENS,
}

_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


class RpcClient(Client):
    """Talks to Dyno's gRPC port, over as many connections as the streams in flight need."""

    def __init__(self, target: str, access: Access) -> None:
        """`target` is grpc://HOST:PORT, or grpcs://HOST:PORT for TLS."""
        self._target = target.rstrip("/")
        self._access = access
        self._metadata = tuple(access.headers.items())
        self._channels: list[_Channel] = []

    @property
    def target(self) -> str:
        return self._target

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        message = pb.StreamGenerateRequest(request=_message(request))
        open_choices = set(range(request.n))
        with self._channel() as stub, _errors(self.target) as progress:
            call = stub.StreamGenerate(message, metadata=self._metadata)
            try:
                async for response in call:
                    progress.begun = True
                    piece = _piece(response)
                    if piece.facts is not None:
                        open_choices.discard(piece.index)
                    yield piece
            finally:
                call.cancel()
        if open_choices:
            raise StreamCut(f"the stream ended before choice {min(open_choices)} had ended")

    async def models(self) -> tuple[ModelCard, ...]:
        with self._channel() as stub, _errors(self.target):
            answer = await stub.ListModels(pb.ListModelsRequest(), metadata=self._metadata)
        return tuple(_card(model) for model in answer.models)

    async def tokenize(self, text: str, model: str = "") -> tuple[int, ...]:
        with self._channel() as stub, _errors(self.target):
            request = pb.TokenizeRequest(model=model, text=text)
            answer = await stub.Tokenize(request, metadata=self._metadata)
        return tuple(answer.token_ids)

    async def watch_routing(self, model: str = "", interval: float = 1.0) -> AsyncGenerator[RoutingLoad, None]:
        with self._channel() as stub, _errors(self.target) as progress:
            request = pb.WatchRoutingRequest(model=model, interval=interval)
            call = stub.WatchRouting(request, metadata=self._metadata)
            try:
                async for load in call:
                    progress.begun = True
                    layers = (_copy(LayerLoad, one, expert_tokens=tuple(one.expert_tokens)) for one in load.layers)
                    yield _copy(RoutingLoad, load, layers=tuple(layers))
            finally:
                call.cancel()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.connection.close()

    @contextmanager
    def _channel(self) -> Iterator[InferenceServiceAsyncStub]:
        """The first connection with room for one more stream; a new one when all are full."""
        free = (channel for channel in self._channels if channel.streams < _STREAMS_PER_CHANNEL)
        channel = next(free, None) or self._open()
        channel.streams += 1
        try:
            yield channel.stub
        finally:
            channel.streams -= 1

    def _open(self) -> _Channel:
        channel = _Channel(self._target, self._access)
        self._channels.append(channel)
        return channel


class _Channel:
    """One connection and the number of streams on it."""

    def __init__(self, target: str, access: Access) -> None:
        scheme, _, address = target.partition("://")
        with patient_threads():  # those of the library, of which several wake for every message
            if scheme == "grpcs":
                self.connection = grpc.aio.secure_channel(address, access.credentials(), options=_OPTIONS)
            else:
                self.connection = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.stub = InferenceServiceStub(self.connection)
        self.streams = 0


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


class _Progress:
    """Whether anything of the answer has come yet."""

    begun = False


@contextmanager
def _errors(target: str) -> Iterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    except grpc.aio.AioRpcError as error:
        raise client_error(target, error, begun=progress.begun) from error


def client_error(target: str, error: grpc.aio.AioRpcError, *, begun: bool) -> ClientError:
    """Our error for gRPC's. The server's own errors carry details; one without them came from the connection."""
    details = _details(error.trailing_metadata())
    if error.code() is grpc.StatusCode.UNAVAILABLE and details is None:
        if begun:
            return StreamCut(f"the connection to {target} broke before the answer was whole")
        return Unreachable(f"nothing answers at {target}")
    code, param = _reason(details or Status())
    status = _HTTP_STATUS.get(error.code(), 500)
    return ClientError(error.details() or error.code().name, status=status, code=code, param=param)


def _details(metadata: Sequence[tuple[str, str | bytes]] | grpc.aio.Metadata) -> Status | None:
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return Status.FromString(value)
    return None


def _reason(status: Status) -> tuple[str, str]:
    """(code, param) of google.rpc details: ErrorInfo's reason and the first field of BadRequest."""
    code = param = ""
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            code = info.reason.lower()
        elif detail.Unpack(bad) and bad.field_violations:
            param = bad.field_violations[0].field
    return code, param
