"""The AdminService of the proto over the one Administration."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from dyno.admin.v1 import admin_pb2 as pb
from dyno.admin.v1.admin_pb2_grpc import AdminServiceServicer
from server.administration.administration import Administration
from server.administration.facts import ChoicePhase, ChoiceStatus, ModelState, ModelStatus, RequestStatus
from server.administration.host import LoadWish
from server.tally import Door
from server.transport.rpc.answering import Answer, Context, answering
from server.transport.rpc.asking import optional
from server.transport.rpc.caller import caller

STATES = {
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.UNLOADING: pb.MODEL_STATE_UNLOADING,
    ModelState.FAILED: pb.MODEL_STATE_FAILED,
}
PHASES = {
    ChoicePhase.QUEUED: pb.PHASE_QUEUED,
    ChoicePhase.PREFILL: pb.PHASE_PREFILL,
    ChoicePhase.DECODE: pb.PHASE_DECODE,
    ChoicePhase.PREEMPTED: pb.PHASE_PREEMPTED,
    ChoicePhase.ENDED: pb.PHASE_ENDED,
}


class AdminServicer(AdminServiceServicer):
    def __init__(self, administration: Administration, door: Door) -> None:
        self._administration = administration
        self._door = door

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        async with self._answering(context, "ListModels"):
            return pb.ListModelsResponse(models=[_model(model) for model in self._administration.models()])

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        async with self._answering(context, "LoadModel"):
            wish = LoadWish(
                request.model,
                optional(request, "scale", request.scale),
                optional(request, "seed", request.seed),
                optional(request, "cache_tokens", request.cache_tokens),
            )
            model = await self._administration.load(wish, by=caller.get().name, detached=request.detached)
            return pb.LoadModelResponse(model=_model(model))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        async with self._answering(context, "UnloadModel"):
            seconds = optional(request, "drain_seconds", request.drain_seconds)
            ended = await self._administration.unload(request.model, by=caller.get().name, seconds=seconds)
            return pb.UnloadModelResponse(ended_requests=ended)

    async def ListRequests(self, request: pb.ListRequestsRequest, context: Context) -> pb.ListRequestsResponse:
        async with self._answering(context, "ListRequests"):
            return pb.ListRequestsResponse(requests=[_request(one) for one in self._administration.requests()])

    async def CancelRequest(self, request: pb.CancelRequestRequest, context: Context) -> pb.CancelRequestResponse:
        async with self._answering(context, "CancelRequest"):
            self._administration.cancel(request.id, by=caller.get().name)
            return pb.CancelRequestResponse()

    async def ResetPrefixCache(
        self, request: pb.ResetPrefixCacheRequest, context: Context
    ) -> pb.ResetPrefixCacheResponse:
        async with self._answering(context, "ResetPrefixCache"):
            models = await self._administration.reset_prefix_cache(request.model or None, by=caller.get().name)
            return pb.ResetPrefixCacheResponse(models=models)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        async with self._answering(context, "Drain"):
            return pb.DrainResponse(requests=self._administration.drain(by=caller.get().name))

    def _answering(self, context: Context, method: str) -> AbstractAsyncContextManager[Answer]:
        return answering(context, self._door, f"AdminService/{method}", flat=True)


def _model(model: ModelStatus) -> pb.Model:
    return pb.Model(
        name=model.name,
        state=STATES[model.state],
        error=model.error or "",
        running=model.running,
        waiting=model.waiting,
    )


def _request(request: RequestStatus) -> pb.Request:
    choices = [_choice(choice) for choice in request.choices]
    return pb.Request(id=request.id, model=request.model, tenant=request.tenant, age=request.age, choices=choices)


def _choice(choice: ChoiceStatus) -> pb.Choice:
    return pb.Choice(
        phase=PHASES[choice.phase],
        prompt_tokens=choice.prompt_tokens,
        completion_tokens=choice.completion_tokens,
        max_tokens=choice.max_tokens,
    )
