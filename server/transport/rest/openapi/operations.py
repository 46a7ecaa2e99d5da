"""Every path of the REST port as the document has it: what it is for, what it takes and answers, with an example."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from server import errors
from server.administration.administration import LoadFailed
from server.limits import Limits
from server.transport.rest.admin import CancelBody, DrainBody, LoadBody, ResetBody, UnloadBody
from server.transport.rest.errors import RouteNotFound
from server.transport.rest.openapi import administered as admin
from server.transport.rest.openapi import answers
from server.transport.rest.openapi.accounts import RoutingLoad
from server.transport.rest.openapi.errors import ASKING, BODY, GENERATING, UNAVAILABLE, Kind
from server.transport.rest.schema import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from server.watching import DEFAULT_INTERVAL, TooManyWatchers

STORY = {"model": "tales-moe", "prompt": "Once upon a time"}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@dataclass(frozen=True, slots=True)
class Operation:
    """`examples`: bodies by their title. `events`: what one event of a stream has. `text`: answers plain text."""

    tag: str
    summary: str
    about: str
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: type[BaseModel] | None = None
    errors: tuple[Kind, ...] = ()
    accepted: bool = False  # may also answer 202
    parameters: tuple[dict[str, Any], ...] = ()


def operations(limits: Limits) -> dict[str, Operation]:
    """Every operation, by METHOD and path as the routes have them."""
    return {**_generation(), **_text_and_models(), **_watching(limits), **_operation(), **_administration()}


def _generation() -> dict[str, Operation]:
    whole = {"max_tokens": 24, "temperature": 0.7, "seed": 4}
    hello = [{"role": "user", "content": "Tell me a tale."}]
    return {
        "POST /v1/completions": Operation(
            "Generation",
            "Continue a prompt",
            "Continues one or several prompts, whole or as a stream. With `echo` it scores the prompt.",
            answers.Completion,
            CompletionBody,
            {
                "A continuation": STORY | whole,
                "A stream, with its measurements": STORY
                | {"stream": True, "stream_options": {"include_usage": True}, "dyno": {"routing": "summary"}},
                "The probability of a prompt": STORY | {"max_tokens": 0, "echo": True, "logprobs": 1},
                "One of several words": {
                    "model": "tales-dense",
                    "prompt": "The wolf was ",
                    "guided_choice": ["grey", "old"],
                },
            },
            answers.CompletionChunk,
            GENERATING,
        ),
        "POST /v1/chat/completions": Operation(
            "Generation",
            "Answer a conversation",
            "Answers a conversation, whole or as a stream, with models that have a chat template.",
            answers.ChatCompletion,
            ChatBody,
            {
                "An answer": {"model": "chat", "messages": hello, "max_completion_tokens": 64},
                "A JSON object": {
                    "model": "chat",
                    "messages": hello,
                    "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
                },
            },
            answers.ChatChunk,
            GENERATING,
        ),
    }


def _text_and_models() -> dict[str, Operation]:
    return {
        "POST /tokenize": Operation(
            "Text and models",
            "Turn text into token ids",
            "Bodies are those of vLLM.",
            answers.Tokens,
            TokenizeBody,
            {"A text": STORY},
            errors=ASKING,
        ),
        "POST /detokenize": Operation(
            "Text and models",
            "Turn token ids into text",
            "Bodies are those of vLLM.",
            answers.Text,
            DetokenizeBody,
            {"Some tokens": {"model": "tales-moe", "tokens": [14, 39]}},
            errors=ASKING,
        ),
        "GET /v1/models": Operation(
            "Text and models",
            "List the served models",
            "With the architecture of each.",
            answers.ModelList,
            errors=UNAVAILABLE,
        ),
        "GET /v1/models/{name:path}": Operation(
            "Text and models",
            "Describe a served model",
            "With its architecture.",
            answers.Model,
            errors=(errors.ModelNotFound, *UNAVAILABLE),
            parameters=(_parameter("name", "path", "Its name; may have slashes.", {"type": "string"}),),
        ),
    }


def _watching(limits: Limits) -> dict[str, Operation]:
    low, high = limits.watch_seconds
    interval = {"type": "number", "minimum": low, "maximum": high, "default": DEFAULT_INTERVAL}
    refusals = (
        errors.InvalidValue,
        errors.UnknownField,
        errors.UnsupportedField,
        errors.ModelNotFound,
        TooManyWatchers,
    )
    return {
        "GET /v1/routing": Operation(
            "Operation",
            "Watch the load of a model's experts",
            "Server-sent events, until the caller leaves, the model is unloaded or the server drains (`[DONE]`).",
            events=RoutingLoad,
            errors=(*refusals, *UNAVAILABLE),
            parameters=(
                _parameter("model", "query", "Which model; may be left out when one is served.", {"type": "string"}),
                _parameter("interval", "query", "Seconds from one event to the next.", interval),
            ),
        )
    }


def _operation() -> dict[str, Operation]:
    ready = Operation(
        "Operation",
        "Whether the server accepts calls",
        "The path for a load balancer to watch. Also HEAD.",
        answers.Status,
        errors=UNAVAILABLE,
    )
    return {
        "GET /livez": Operation(
            "Operation",
            "Whether the server is alive",
            "The process answers and its engine makes progress; restart a server that fails this. Also HEAD.",
            answers.Status,
            errors=(errors.EngineDown,),
        ),
        "GET /readyz": ready,
        "GET /health": replace(ready, about="Alias of `/readyz`. Also HEAD."),
        "GET /ready": replace(ready, about="Alias of `/readyz`. Also HEAD."),
        "GET /version": Operation("Operation", "The server's version", "", answers.Version),
        "GET /metrics": Operation(
            "Operation", "Metrics for Prometheus", "As text, or as OpenMetrics where `accept` asks for it. Also HEAD."
        ),
        "GET /debug/state": Operation(
            "Operation",
            "Internal state",
            "For callers on the same machine, and only with the setting `debug`.",
            answers.State,
            errors=(RouteNotFound,),
        ),
    }


def _administration() -> dict[str, Operation]:
    known: tuple[Kind, ...] = (errors.ModelNotFound, *UNAVAILABLE)
    return {
        "GET /admin/v1/models": _admin("List models and their states", admin.AdministeredModels),
        "POST /admin/v1/models/load": Operation(
            "Administration",
            "Load a model beside the others",
            "Answers 202 where the model is still loading (`detached`).",
            admin.LoadedModel,
            LoadBody,
            {"A preset, made small": {"model": "mine=deepseek-v3", "scale": "tiny", "seed": 1}},
            errors=(*BODY, LoadFailed, errors.ModelExists, *UNAVAILABLE),
            accepted=True,
        ),
        "POST /admin/v1/models/unload": _admin(
            "Unload a model", admin.Unloaded, UnloadBody, {"model": "mine", "drain_seconds": 5}, (*BODY, *known)
        ),
        "GET /admin/v1/requests": _admin("List the requests in flight", admin.RequestsInFlight),
        "POST /admin/v1/requests/cancel": _admin(
            "End a request", admin.Done, CancelBody, {"id": "efeb2f9f38eb47057b8fa163"}, (*BODY, errors.RequestNotFound)
        ),
        "POST /admin/v1/prefix-cache/reset": _admin(
            "Clear the prefix cache", admin.Forgotten, ResetBody, {"model": "tales-moe"}, (*BODY, *known)
        ),
        "POST /admin/v1/drain": _admin(
            "Finish what is in flight and end the process", admin.Draining, DrainBody, {}, BODY
        ),
    }


def _admin(
    summary: str,
    answer: type[BaseModel],
    body: type[BaseModel] | None = None,
    example: dict[str, Any] | None = None,
    kinds: tuple[Kind, ...] = (),
) -> Operation:
    examples = {} if example is None else {"A body": example}
    return Operation("Administration", summary, "", answer, body, examples, errors=kinds)


def _parameter(name: str, place: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "description": text, "schema": schema}
