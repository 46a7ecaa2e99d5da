"""How endpoints become routes, and values answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class PlainRoute(APIRoute):
    """Hands the request to the endpoint as it is: bodies are read within limits there, and FastAPI's own handler looks
    up the endpoint's source code when it is called for the first time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def add_route(router: APIRouter, path: str, endpoint: Endpoint, methods: str = "GET") -> None:
    """`methods`: their names with spaces between them."""
    router.add_api_route(path, endpoint, methods=methods.split(), response_model=None)


def json_response(data: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(data), status, media_type="application/json")
