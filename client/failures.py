"""What went wrong over gRPC, as errors of the client."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from client.access import untrusted
from client.api import ClientError, StreamCut, Unreachable
from dyno.inference.v1 import inference_pb2 as pb

_DETAILS_KEY = "grpc-status-details-bin"
_REFUSED = re.compile("CERTIFICATE_VERIFY_FAILED: ([^:]+)")  # in what the library says of a connection
_CODES = {code.value[0]: code for code in grpc.StatusCode}

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


class Progress:
    """Whether anything of the answer has come yet."""

    begun = False


@contextmanager
def client_errors(target: str, *, writing: bool = False) -> Iterator[Progress]:
    """writing: the call goes on writing, and where it breaks then, the library says INTERNAL."""
    broken_codes = {grpc.StatusCode.UNAVAILABLE} | ({grpc.StatusCode.INTERNAL} if writing else set())
    progress = Progress()
    try:
        yield progress
    except grpc.aio.AioRpcError as error:
        details = _details(error.trailing_metadata())
        if details is None and error.code() in broken_codes:  # the server's own errors carry details
            raise broken(target, begun=progress.begun, why=error.details() or "") from error
        raise _refusal(error.code(), error.details() or "", (details or Status()).details) from error


def end_error(end: pb.GenerateEnd) -> ClientError:
    """Why a request of GenerateMany failed."""
    return _refusal(_CODES.get(end.code, grpc.StatusCode.UNKNOWN), end.message, end.details)


def broken(target: str, *, begun: bool, why: str = "") -> ClientError:
    """A connection that ended before its last word, or never began; `why` is what the library says of it."""
    if begun:
        return StreamCut(f"the connection to {target} broke before the answer was whole")
    if refused := _REFUSED.search(why):
        return Unreachable(untrusted(target, refused[1]))
    return Unreachable(f"nothing answers at {target}")


def _refusal(code: grpc.StatusCode, message: str, details: Iterable[AnyMessage]) -> ClientError:
    reason, param = _reason(details)
    return ClientError(message or code.name, status=_HTTP_STATUS.get(code, 500), code=reason, param=param)


def _details(metadata: Sequence[tuple[str, str | bytes]] | grpc.aio.Metadata) -> Status | None:
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return Status.FromString(value)
    return None


def _reason(details: Iterable[AnyMessage]) -> tuple[str, str]:
    """What google.rpc details tell as (code, param): ErrorInfo's reason and the first field of BadRequest."""
    code = param = ""
    for detail in details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            code = info.reason.lower()
        elif detail.Unpack(bad) and bad.field_violations:
            param = bad.field_violations[0].field
    return code, param
