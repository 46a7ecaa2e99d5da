"""The InferenceService of the proto over the one GenerationService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from server.call import GenerateCall
from server.generation import Generation
from server.service import GenerationService
from server.tally import Door
from server.transport.rpc import convert
from server.transport.rpc.answering import Answer, Context, answering, metadata, peer
from server.transport.rpc.asking import reading_of
from server.transport.rpc.generating import Asked, Envelope, generating
from server.transport.rpc.many import ManyGenerations
from server.transport.rpc.watching import load_message
from server.transport.stall import StallGuard


class Servicer(InferenceServiceServicer):
    """A call that is cancelled, or whose deadline passes, is cancelled here too and leaves the engine at once."""

    def __init__(self, service: GenerationService, door: Door) -> None:
        self._service = service
        self._door = door

    async def StreamGenerate(self, request: pb.StreamGenerateRequest, context: Context) -> None:  # type: ignore[override]
        guard = StallGuard(self._service.limits.stalled_write_seconds)
        async with self._answering(context, "StreamGenerate") as answer:
            with guard:
                async with self._generation(answer.id, convert.generate_call, request.request, context) as generation:
                    guard.watch(lambda: generation.piled_up)
                    async for piece in generation.pieces(merged=True):
                        for part in convert.parts(piece):
                            message = convert.stream_response(answer.id, part, generation.call.facts)
                            await guard.write(answer.write(message))

    async def GenerateMany(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.GenerateManyRequest], context: Context
    ) -> None:
        guard = StallGuard(self._service.limits.stalled_write_seconds)
        many = ManyGenerations(self._service, self._door, context.time_remaining, peer(context))
        guard.watch(lambda: many.piled_up)
        async with self._answering(context, "GenerateMany", early=True) as answer:
            with guard:
                await many.answer(request_iterator, lambda message: guard.write(answer.write(message)))

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        async with (
            self._answering(context, "Generate") as answer,
            self._generation(answer.id, convert.generate_call, request, context) as generation,
        ):
            choices = await generation.whole()
            return convert.generate_response(answer.id, generation.model.name, choices, generation.call.facts)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        async with (
            self._answering(context, "Score") as answer,
            self._generation(answer.id, convert.score_call, request, context) as generation,
        ):
            [scored] = await generation.whole()
            return convert.score_response(answer.id, generation.model.name, scored, generation.call.facts)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        async with self._answering(context, "Tokenize"):
            name, reading = convert.model_name(request.model), reading_of(request)
            ids = await self._service.tokenize(name, request.text, "text", reading)
            return pb.TokenizeResponse(token_ids=ids)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        async with self._answering(context, "Detokenize"):
            name, ids = convert.model_name(request.model), tuple(request.token_ids)
            return pb.DetokenizeResponse(text=await self._service.detokenize(name, ids, "token_ids"))

    async def WatchRouting(self, request: pb.WatchRoutingRequest, context: Context) -> None:  # type: ignore[override]
        guard, interval = StallGuard(self._service.limits.stalled_write_seconds), request.interval
        async with self._answering(context, "WatchRouting") as answer:
            wished = interval if request.HasField("interval") else None
            with guard:
                async with self._service.watch.loads(convert.model_name(request.model), wished) as loads:
                    await answer.begin()  # the first load may be a minute away
                    async for load in loads:
                        await guard.write(answer.write(load_message(load)))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        async with self._answering(context, "ListModels"):
            self._service.require_ready()
            models = [convert.model_message(model.card) for model in self._service.models.values()]
            return pb.ListModelsResponse(models=models)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        async with self._answering(context, "GetModel"):
            model = self._service.model(convert.model_name(request.model))
            return pb.GetModelResponse(model=convert.model_message(model.card))

    def _generation(
        self, id: str, read: Callable[[Asked], GenerateCall], request: Asked, context: Context
    ) -> AbstractAsyncContextManager[Generation]:
        given, trace = metadata(context, "x-request-id"), metadata(context, "traceparent")
        return generating(self._service, id, read, request, Envelope(context.time_remaining(), given, trace))

    def _answering(self, context: Context, method: str, *, early: bool = False) -> AbstractAsyncContextManager[Answer]:
        return answering(context, self._door, method, early=early)
