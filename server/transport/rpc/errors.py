"""The tree of errors as gRPC: one table of statuses, and google.rpc details for every one of them."""

from __future__ import annotations

import re
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from dyno.inference.v1 import inference_pb2 as pb
from server.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelExists,
    ModelNotFound,
    PermissionDenied,
    QueueFull,
    RequestNotFound,
    ServiceError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    entry_of,
)

DOMAIN = "dyno"


class SlowReader(ServiceError):
    """A stream that was ended because nobody read it."""

    code = "stalled_reader"


class CallOver(Unavailable):
    """A call of many requests that is too old for another."""

    code = "call_over"


class ServiceUnknown(ServiceError):
    """A health check of something that is not here."""

    code = "service_unknown"


STATUS: dict[type[ServiceError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    RequestNotFound: grpc.StatusCode.NOT_FOUND,
    ModelExists: grpc.StatusCode.ALREADY_EXISTS,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    TooManyRequests: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    SlowReader: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ServiceUnknown: grpc.StatusCode.NOT_FOUND,
    Cancelled: grpc.StatusCode.CANCELLED,
    InternalError: grpc.StatusCode.INTERNAL,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}

INSIDE = dict.fromkeys(pb.SamplingParameters.DESCRIPTOR.fields_by_name, "sampling") | {"messages": "conversation"}
"""Field of the domain → the message that holds it; every other is a field of the request itself."""


def status_of(error: ServiceError) -> grpc.StatusCode:
    return entry_of(STATUS, type(error))


def field_path(param: str) -> str:
    """Where the proto keeps a field of the domain."""
    holder = INSIDE.get(re.split(r"\W", param, maxsplit=1)[0])
    return param if holder is None else f"{holder}.{param}"


async def abort(
    context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    error: ServiceError,
    request_id: str = "",
    told_id: str = "",
    *,
    flat: bool = False,
) -> NoReturn:
    """End the call with the error's status and details. `told_id`: what its caller is told as its id; `flat`: of a
    request with no message inside."""
    rich = rpc_status.to_status(status_message(error, request_id, flat=flat))
    more = [("x-request-id", told_id)] if told_id else []
    if error.retry_after is not None:  # a client's retry policy does not read RetryInfo
        more.append(("grpc-retry-pushback-ms", str(1000 * error.retry_after)))
    await context.abort(rich.code, rich.details, (*rich.trailing_metadata, *more))
    raise AssertionError("abort returned")


def status_message(error: ServiceError, request_id: str, *, flat: bool = False) -> status_pb2.Status:
    """The error's status and details. `flat`: of a request with no message inside."""
    code, _ = status_of(error).value
    return status_pb2.Status(code=code, message=error.message, details=_details(error, request_id, flat))


def _details(error: ServiceError, request_id: str, flat: bool) -> list[AnyMessage]:
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.code.upper(), domain=DOMAIN)]
    if error.param is not None:
        field = error.param if flat else field_path(error.param)
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=error.retry_after)))
    if isinstance(error, QueueFull | TooManyRequests):
        violation = error_details_pb2.QuotaFailure.Violation(subject=error.code, description=error.message)
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if error.resource is not None:
        kind, name = error.resource
        details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    return [_packed(detail) for detail in details]


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
