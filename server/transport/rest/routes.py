"""The paths of the REST port."""

from __future__ import annotations

import importlib.metadata
import ipaddress
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.call import FactWishes, GenerateCall, RoutingDetail
from server.errors import EngineDown
from server.models import ServedModel
from server.service import GenerationService
from server.transport.ids import given_id, trace_of
from server.transport.rest.answer import GenerationAnswer
from server.transport.rest.body import read_body
from server.transport.rest.calls import answer_wishes, chat_call, completion_call, prompts_in, reading_of
from server.transport.rest.errors import RouteNotFound
from server.transport.rest.plain import PlainRoute, add_route, json_response
from server.transport.rest.schema import ChatBody, CompletionBody, DetokenizeBody, GenerationBody, TokenizeBody
from server.transport.rest.scrapes import Scrape, Scrapes
from server.transport.rest.watching import routing_stream
from server.transport.rest.writers import ChatWriter, CompletionWriter, Writer
from server.validation import most_answers

Shape = TypeVar("Shape", bound=GenerationBody)

NO_FACTS = FactWishes(RoutingDetail.NONE, latency=False, compute=False)


class Routes:
    """The endpoints."""

    def __init__(
        self, service: GenerationService, scrape: Scrape, debug_state: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        """`debug_state` None: /debug/state does not exist."""
        self.service, self.debug_state = service, debug_state
        self._scrapes = Scrapes(scrape)

    def router(self) -> APIRouter:
        router = APIRouter(route_class=PlainRoute)
        add_route(router, "/v1/completions", self.completions, "POST")
        add_route(router, "/v1/chat/completions", self.chat, "POST")
        add_route(router, "/tokenize", self.tokenize, "POST")
        add_route(router, "/detokenize", self.detokenize, "POST")
        add_route(router, "/v1/models", self.models)
        add_route(router, "/v1/models/{name:path}", self.model)
        add_route(router, "/v1/routing", self.routing)
        add_route(router, "/livez", self.livez, "GET HEAD")
        add_route(router, "/readyz", self.readyz, "GET HEAD")
        add_route(router, "/health", self.readyz, "GET HEAD")
        add_route(router, "/ready", self.readyz, "GET HEAD")
        add_route(router, "/version", self.version)
        add_route(router, "/metrics", self.metrics, "GET HEAD")
        if self.debug_state is not None:
            add_route(router, "/debug/state", self.state)
        return router

    # ------------------------------------------------------------------------------------------ generation

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionBody, completion_call, CompletionWriter)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, ChatBody, chat_call, ChatWriter)

    async def _answer(
        self, request: Request, shape: type[Shape], call_of: Callable[[Shape], GenerateCall], writer: type[Writer]
    ) -> GenerationAnswer:
        service, tenant = self.service, request.state.tenant
        with service.counting_refusals(tenant=tenant):
            body = await read_body(request, shape, service.limits)
        count = most_answers(prompts_in(body), body.n, service.limits)
        with service.counting_refusals(body.model, count, tenant):
            call, wishes = call_of(body), answer_wishes(body)
        given, trace = (request.headers.get(name) for name in ("x-request-id", "traceparent"))
        call = replace(
            call,
            facts=NO_FACTS if wishes.facts is None else wishes.facts,
            arrived=request.state.arrived,
            tenant=tenant,
            trace=trace_of(trace),
            given_id=given_id(given),
        )
        return GenerationAnswer(self.service, request.state.request_id, call, writer, wishes)

    # ------------------------------------------------------------------------------------------ text and models

    async def tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody, self.service.limits)
        tokens = await self.service.tokenize(body.model, body.prompt, "prompt", reading_of(body))
        longest = self.service.model(body.model).architecture.context
        return json_response({"tokens": tokens, "count": len(tokens), "max_model_len": longest})

    async def detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody, self.service.limits)
        return json_response({"prompt": await self.service.detokenize(body.model, body.tokens, "tokens")})

    async def models(self, request: Request) -> Response:
        self.service.require_ready()
        return json_response({"object": "list", "data": [self._entry(model) for model in self.service.models.values()]})

    async def model(self, request: Request) -> Response:
        return json_response(self._entry(self.service.model(request.path_params["name"])))

    async def routing(self, request: Request) -> Response:
        return routing_stream(request, self.service.watch)

    def _entry(self, model: ServedModel) -> dict[str, Any]:
        card = asdict(model.card)
        owner = {"object": "model", "created": self.service.since, "owned_by": "dyno"}
        place = {"root": model.name, "parent": None}  # vLLM's: no model here is an adapter of another
        return {"id": card.pop("id"), **owner, **place, "max_model_len": card["context"], "dyno": card}

    # ------------------------------------------------------------------------------------------ operation

    async def livez(self, request: Request) -> Response:
        """Whether the process is worth keeping: it answers, and its engine moves."""
        if self.service.alive:
            return json_response({"status": "alive"})
        raise EngineDown("the engine does not run", retry_after=self.service.limits.retry_after_seconds)

    async def readyz(self, request: Request) -> Response:
        """Whether calls are taken now."""
        self.service.require_ready()
        return json_response({"status": "ready"})

    async def version(self, request: Request) -> Response:
        return json_response({"version": importlib.metadata.version("dyno")})

    async def metrics(self, request: Request) -> Response:
        body, content_type = await self._scrapes.answer(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def state(self, request: Request) -> Response:
        """What the server holds right now, for callers on this machine; others learn of no such route."""
        if self.debug_state is None or not _from_here(request):
            raise RouteNotFound("there is nothing at '/debug/state'")
        return json_response(self.debug_state())


def _from_here(request: Request) -> bool:
    return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
