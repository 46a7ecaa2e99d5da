"""The paths under /admin/v1: the AdminService of the proto, as REST."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.administration.administration import Administration
from server.administration.facts import ModelState
from server.administration.host import LoadWish
from server.limits import Limits
from server.transport.rest.body import read_body
from server.transport.rest.plain import PlainRoute, add_route, json_response
from server.transport.rest.schema import Body

ACCEPTED = 202


class LoadBody(Body):
    """What is left out is as in the settings. `detached`: answer at once, with the model loading."""

    model: str
    scale: str | None = None
    seed: int | None = None
    cache_tokens: int | None = None
    detached: bool | None = None


class UnloadBody(Body):
    """`drain_seconds`: how long its requests may take to finish; left out, as long as at the end of the server."""

    model: str
    drain_seconds: float | None = None


class CancelBody(Body):
    id: str


class ResetBody(Body):
    """`model`: whose cached prefixes are forgotten; left out, those of all."""

    model: str | None = None


class DrainBody(Body):
    """An empty object: nothing is to be said."""


@dataclass(frozen=True, slots=True)
class AdminRoutes:
    administration: Administration
    limits: Limits

    def router(self) -> APIRouter:
        router = APIRouter(route_class=PlainRoute, prefix="/admin/v1")
        add_route(router, "/models", self.models)
        add_route(router, "/models/load", self.load, "POST")
        add_route(router, "/models/unload", self.unload, "POST")
        add_route(router, "/requests", self.requests)
        add_route(router, "/requests/cancel", self.cancel, "POST")
        add_route(router, "/prefix-cache/reset", self.reset_prefix_cache, "POST")
        add_route(router, "/drain", self.drain, "POST")
        return router

    async def models(self, request: Request) -> Response:
        return json_response({"models": [asdict(model) for model in self.administration.models()]})

    async def load(self, request: Request) -> Response:
        body = await read_body(request, LoadBody, self.limits)
        wish = LoadWish(body.model, body.scale, body.seed, body.cache_tokens)
        model = await self.administration.load(wish, by=_name(request), detached=bool(body.detached))
        return json_response({"model": asdict(model)}, ACCEPTED if model.state is ModelState.LOADING else 200)

    async def unload(self, request: Request) -> Response:
        body = await read_body(request, UnloadBody, self.limits)
        ended = await self.administration.unload(body.model, by=_name(request), seconds=body.drain_seconds)
        return json_response({"ended_requests": ended})

    async def requests(self, request: Request) -> Response:
        return json_response({"requests": [asdict(one) for one in self.administration.requests()]})

    async def cancel(self, request: Request) -> Response:
        body = await read_body(request, CancelBody, self.limits)
        self.administration.cancel(body.id, by=_name(request))
        return json_response({})

    async def reset_prefix_cache(self, request: Request) -> Response:
        body = await read_body(request, ResetBody, self.limits)
        return json_response({"models": await self.administration.reset_prefix_cache(body.model, by=_name(request))})

    async def drain(self, request: Request) -> Response:
        await read_body(request, DrainBody, self.limits)
        return json_response({"requests": self.administration.drain(by=_name(request))})


def _name(request: Request) -> str:
    name: str = request.state.tenant.name
    return name
