"""A request of gRPC in the service, for as long as its caller waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from dyno.inference.v1 import inference_pb2 as pb
from server.call import GenerateCall
from server.errors import InvalidRequest
from server.generation import Generation
from server.service import GenerationService
from server.transport.ids import given_id, trace_of
from server.transport.rpc import convert
from server.transport.rpc.asking import names_of
from server.transport.rpc.caller import caller
from server.validation import most_answers

Asked = TypeVar("Asked", pb.GenerateRequest, pb.ScoreRequest)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What comes with a request and is not in its message."""

    seconds: float | None  # how long its caller waits
    request_id: str | None
    traceparent: str | None


def counting_refusals(
    service: GenerationService, request: pb.GenerateRequest | pb.ScoreRequest
) -> AbstractContextManager[None]:
    """As the service's, for a message that was not made a call yet."""
    n = request.n if isinstance(request, pb.GenerateRequest) else 1
    count = most_answers(1, n, service.limits)
    return service.counting_refusals(convert.model_name(request.model), count, caller.get())


@asynccontextmanager
async def generating(
    service: GenerationService,
    id: str,
    read: Callable[[Asked], GenerateCall],
    request: Asked,
    envelope: Envelope,
) -> AsyncIterator[Generation]:
    """The request, running; leaving the context takes it out of the engine. Raises ServiceError."""
    arrived = service.clock()
    try:
        with counting_refusals(service, request):
            call = read(request)
        call = replace(
            call,
            arrived=arrived,
            seconds=envelope.seconds,
            tenant=caller.get(),
            trace=trace_of(envelope.traceparent),
            given_id=given_id(envelope.request_id),
        )
        async with service.generate(id, call) as generation:
            yield generation
    except InvalidRequest as error:
        error.rename(names_of(request))
        raise
