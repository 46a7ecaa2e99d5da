"""The first interceptor: nobody gets through to a method that the table does not give them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc

from server.errors import PermissionDenied, ServiceError
from server.tally import UNKNOWN, Door
from server.tenancy import Tenant
from server.transport.auth.access import Authoriser, Standing
from server.transport.auth.table import ACCESS
from server.transport.rpc.answering import Answer, Context, Details, label
from server.transport.rpc.caller import admission, caller
from server.transport.rpc.errors import abort, status_of

Handler: TypeAlias = Any
"""grpc.RpcMethodHandler, whose type says nothing of what is in it."""


class Authorisation(grpc.aio.ServerInterceptor):
    """Lets a call on, with its `caller`, or answers it itself."""

    def __init__(self, authoriser: Authoriser, door: Door) -> None:
        self._authoriser = authoriser
        self._door = door

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details
    ) -> Handler:
        method, credentials = handler_call_details.method, _credentials(handler_call_details)
        try:
            # Where there is no method, only those with a key are told so.
            admit = partial(self._authoriser.admit, credentials, ACCESS.get(method, Standing.KEY))
            caller.set(admit())
            admission.set(admit)
            handler = await continuation(handler_call_details)
            if handler is not None and method not in ACCESS:
                self._authoriser.admit(credentials, None)
        except ServiceError as error:
            if isinstance(error, PermissionDenied):
                caller.set(Tenant(error.tenant))  # for the log
            return self._refusing(error, label(method) if method in ACCESS else UNKNOWN)
        return handler

    def _refusing(self, error: ServiceError, method: str) -> Handler:
        """A handler that ends the call at once. Of this kind because it waits for no message, whatever kind was
        called."""

        async def refuse(requests: AsyncIterator[Any], context: Context) -> None:
            answer = Answer(context)
            self._door.answered(method, status_of(error).name, answer.who)
            await abort(context, error, answer.id, answer.told_id)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _credentials(details: Details) -> list[bytes]:
    values = (value for name, value in details.invocation_metadata or () if name == "authorization")
    return [value if isinstance(value, bytes) else value.encode("latin-1", "replace") for value in values]
