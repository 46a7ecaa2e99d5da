"""grpc.health.v1 for the whole server, for its services and for each model by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.errors import shown
from server.transport.rpc.answering import Context
from server.transport.rpc.errors import ServiceUnknown, abort
from server.watching import TooManyWatchers

Response: TypeAlias = health_pb2.HealthCheckResponse

WHOLE = ""
MOST_WATCHERS = 1024


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Says what it was told last. What has no name here is unknown: a model that was never loaded, or is gone."""

    def __init__(self, services: Iterable[str], retry_after: int) -> None:
        """`services`: names that are as the whole is. `retry_after`: seconds, for a watcher too many."""
        self._services = (WHOLE, *services)
        self._serving: dict[str, bool] = dict.fromkeys(self._services, False)
        self._changed = asyncio.Event()
        self._watchers = 0
        self._retry_after = retry_after

    def tell(self, serving: bool, models: Mapping[str, bool]) -> None:
        """Whether calls are taken, at all and of each model."""
        state = {name: serving and ready for name, ready in models.items()}
        state |= dict.fromkeys(self._services, serving)  # a model that has the name of a service does not speak for it
        if state != self._serving:
            self._serving = state
            self._changed.set()
            self._changed = asyncio.Event()  # those who wait hold the one before

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Response:
        status = self._status(request.service)
        if status == Response.SERVICE_UNKNOWN:
            await abort(context, ServiceUnknown(f"there is no service or model {shown(request.service)}"))
        return Response(status=status)

    async def List(self, request: Any, context: Context) -> Any:
        statuses = {name: Response(status=self._status(name)) for name in self._serving}
        return health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]  # the stubs are older

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Every change, from what is now on; of an unknown name too, which may become known."""
        if self._watchers >= MOST_WATCHERS:
            message = f"at most {MOST_WATCHERS} may watch at once"
            await abort(context, TooManyWatchers(message, retry_after=self._retry_after))
        self._watchers += 1
        told = None
        try:
            while True:
                changed, status = self._changed, self._status(request.service)
                if status != told:
                    await context.write(Response(status=status))
                    told = status
                await changed.wait()
        finally:
            self._watchers -= 1

    def _status(self, name: str) -> int:
        if name not in self._serving:
            return Response.SERVICE_UNKNOWN
        return Response.SERVING if self._serving[name] else Response.NOT_SERVING
