"""The gRPC side of the fake server: the same words, as messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from tests.client.answers import CACHE, CARD, COMPUTE, FLOPS, LATENCY, LOAD, SPREAD, STEPS, SUMMARY, facts

if TYPE_CHECKING:
    from tests.client.fake_server import FakeServer


class Servicer(InferenceServiceServicer):
    """Behaves as the fake's script says."""

    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    async def StreamGenerate(self, request: Any, context: Any) -> AsyncIterator[pb.StreamGenerateResponse]:
        asked, script = request.request, self._fake.script
        self._fake.seen.append(("grpc", asked))
        count = asked.sampling.max_tokens
        if refusal := script.refusal(asked.model, count):
            await _abort(context, refusal)
        sent = 0
        try:
            async for word in self._fake.words(asked.model, count, asked.sampling.seed):
                if sent == script.cut_after:
                    return
                if sent == script.fault_after:
                    await _abort(context, (500, "internal_error", "", "the server failed"))
                sent += 1
                yield _response(asked, word, sent, last=sent == count)
        except asyncio.CancelledError:
            self._fake.cancelled.set()
            raise

    async def GenerateMany(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Each request as StreamGenerate answers it."""
        self._fake.calls += 1
        self._fake.open_calls += 1
        await context.send_initial_metadata(())
        try:
            await self._many(requests, context)
        finally:
            self._fake.open_calls -= 1

    async def _many(self, requests: AsyncIterator[Any], context: Any) -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        writing = asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                self._fake.most_actions = max(self._fake.most_actions, len(request.actions))
                for action in request.actions:
                    if action.HasField("cancel"):
                        tasks[action.tag].cancel()
                    else:
                        one = _OneOfMany(action.tag, context, writing)
                        tasks[action.tag] = group.create_task(one.answer(self, action.start.request))

    async def WatchRouting(self, request: Any, context: Any) -> AsyncIterator[pb.WatchRoutingResponse]:
        self._fake.seen.append(("grpc", request))
        if refusal := self._fake.script.refusal(request.model, 1):
            await _abort(context, refusal)
        for _ in range(2):
            layers = [pb.LayerLoad(**layer) for layer in LOAD["layers"]]
            yield pb.WatchRoutingResponse(**(LOAD | {"layers": layers}))
        if self._fake.script.fault_after is not None:
            await _abort(context, (500, "internal_error", "", "the server failed"))

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(id=name, **CARD) for name in self._fake.script.models])

    async def Tokenize(self, request: Any, context: Any) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=[len(word) for word in request.text.split()])


class _OneOfMany:
    """A request of GenerateMany: to StreamGenerate it looks like a call of its own."""

    def __init__(self, tag: int, context: Any, writing: asyncio.Lock) -> None:
        self._tag = tag
        self._context = context
        self._writing = writing  # a context takes one message at a time

    async def answer(self, servicer: Servicer, request: pb.GenerateRequest) -> None:
        end = pb.GenerateEnd()
        try:
            async for response in servicer.StreamGenerate(pb.StreamGenerateRequest(request=request), self):
                await self._tell(piece=response)
        except _Aborted as aborted:
            status = aborted.status
            end = pb.GenerateEnd(code=status.code, message=status.message, details=status.details)
        await self._tell(end=end)

    async def abort(self, code: Any, message: str, metadata: Any) -> None:
        raise _Aborted(status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"]))

    async def _tell(self, **what: Any) -> None:
        async with self._writing:
            await self._context.write(pb.GenerateManyResponse(events=[pb.GenerateEvent(tag=self._tag, **what)]))


class _Aborted(Exception):
    def __init__(self, status: Any) -> None:
        self.status = status


def _response(asked: pb.GenerateRequest, word: str, place: int, *, last: bool) -> pb.StreamGenerateResponse:
    response = pb.StreamGenerateResponse(id="r1", index=0, text=word, tokens=[pb.Token(id=place - 1)])
    if last:
        response.finished.CopyFrom(_finished(_asked_length(asked), asked))
    return response


def _asked_length(asked: pb.GenerateRequest) -> int:
    if asked.HasField("conversation"):
        return len(asked.conversation.messages)
    return len(asked.token_ids.ids) or len(asked.prompt.split())


def _finished(prompt_tokens: int, asked: pb.GenerateRequest) -> pb.Finished:
    told = facts(prompt_tokens, asked.sampling.max_tokens)
    layers = [pb.LayerRouting(**layer) for layer in told["routing"]["layers"]]
    routing = pb.Routing(tokens=2, layers=layers, summary=pb.RoutingSummary(**SUMMARY))
    return pb.Finished(
        reason=pb.FINISH_REASON_LENGTH,
        usage=pb.Usage(**told["usage"]),
        latency=pb.Latency(**(LATENCY | {"inter_token": pb.Spread(**SPREAD)})),
        cache=pb.Cache(**CACHE),
        steps=pb.Steps(**STEPS),
        routing=None if asked.routing == pb.ROUTING_DETAIL_NONE else routing,
        compute=pb.Compute(**(COMPUTE | {"flops": pb.Flops(**FLOPS)})),
    )


async def _abort(context: Any, refusal: tuple[int, str, str, str]) -> None:
    status, code, param, message = refusal
    codes = {404: grpc.StatusCode.NOT_FOUND, 400: grpc.StatusCode.INVALID_ARGUMENT, 500: grpc.StatusCode.INTERNAL}
    details = [error_details_pb2.ErrorInfo(reason=code.upper(), domain="dyno")]
    if param:
        violation = error_details_pb2.BadRequest.FieldViolation(field=param, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = [AnyMessage() for _ in details]
    for box, detail in zip(packed, details, strict=True):
        box.Pack(detail)
    rich = rpc_status.to_status(status_pb2.Status(code=codes[status].value[0], message=message, details=packed))
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
