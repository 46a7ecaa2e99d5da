"""The bodies that REST takes: shapes and types only; ranges are the validator's.

Every optional field also takes null. Fields in IGNORED, and in a message those in IGNORED_IN_MESSAGES, are accepted and
change nothing: clients of other servers send them. Fields in UNSUPPORTED are known from other servers and refused,
unless they hold a value that asks for nothing.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import ConfigDict, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from server.errors import shown
from server.transport.rest import foreign
from server.transport.rest.forms import GuidedBody

IGNORED = (
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
    "verbosity",
    "reasoning_effort",
)

IGNORED_IN_MESSAGES = (
    "name",
    "type",
    "refusal",
    "annotations",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "reasoning_items",
    "thinking_blocks",
    "provider_specific_fields",
)
"""What clients put on a message beside its content, or bring back with an answer that they keep as they parsed it."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "web_search_options": (None,),
    "images": (None, []),
    "tool_calls": (None, []),
    "tool_call_id": (None,),
    **foreign.NEUTRAL,
    **foreign.NEUTRAL_IN_COMPLETIONS,
}
UNSUPPORTED_IN_CHAT = UNSUPPORTED | foreign.NEUTRAL_IN_CHAT
"""Two of these are supported in completions."""


def read_prompt(value: object) -> tuple[str | tuple[int, ...], ...]:
    """One or several prompts, each a text or token ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        if value and _are(str, value):
            return tuple(value)
        if _are(int, value):
            return (tuple(value),)
        if all(isinstance(ids, list) and _are(int, ids) for ids in value):
            return tuple(tuple(ids) for ids in value)
    raise ValueError("a string, a list of strings, a list of token ids or a list of such lists")


def read_stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and _are(str, value):
        return tuple(value)
    raise ValueError("a string or a list of strings")


def read_bias(value: object) -> tuple[tuple[int, float], ...]:
    """JSON has only strings for keys: "15043": -1."""
    if value is None:
        return ()
    if isinstance(value, dict) and all(_is_id(key) and type(bias) in (int, float) for key, bias in value.items()):
        told = {int(key): _double(bias) for key, bias in value.items()}
        if len(told) == len(value):  # "1" and "01" are the same token
            return tuple(told.items())
    raise ValueError("an object from token ids to numbers, each token once")


def _double(number: int | float) -> float:
    """An integer beyond all doubles as an infinity: the validator knows what is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def read_content(value: object) -> str:
    """A text, or parts of which each is a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return "".join(_part_text(part) for part in value)
    raise ValueError("a string or a list of text parts")


def _part_text(part: dict[str, Any]) -> str:
    """OpenAI's Agents SDK for Node puts on the part of an earlier answer what else the message of that answer had."""
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        raise PydanticCustomError("unsupported", "may only have parts of type text, got {kind}", {"kind": shown(kind)})
    if not isinstance(text, str) or not part.keys() <= {"type", "text", "role", *IGNORED_IN_MESSAGES}:
        raise ValueError('a string or a list of parts {"type": "text", "text": …}')
    return text


def _are(kind: type, values: list[Any]) -> bool:
    """Whether every value is exactly of this type: true is not 1."""
    return all(type(value) is kind for value in values)


def _is_id(key: str) -> bool:
    return len(key) <= 20 and key.removeprefix("-").isdecimal() and key.isascii()


Prompts: TypeAlias = Annotated[
    tuple[str | tuple[int, ...], ...],
    PlainValidator(read_prompt),
    WithJsonSchema({"type": ["string", "array"]}),
]
Stops: TypeAlias = Annotated[
    tuple[str, ...], PlainValidator(read_stop), WithJsonSchema({"type": ["string", "array", "null"]})
]
Bias: TypeAlias = Annotated[
    tuple[tuple[int, float], ...], PlainValidator(read_bias), WithJsonSchema({"type": ["object", "null"]})
]
Content: TypeAlias = Annotated[str, PlainValidator(read_content), WithJsonSchema({"type": ["string", "array"]})]


class Body(foreign.Discerning):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = UNSUPPORTED


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # ignored: chunks are not padded


class DynoOptions(Body):
    """The extension: its presence asks for the facts of the request, all but those that are declined here."""

    routing: Literal["none", "summary", "layers", "tokens"] | None = None
    routing_start: int | None = None
    latency: bool | None = None
    compute: bool | None = None


class ReadingBody(Body):
    """How texts become ids, in the names of Hugging Face's tokenizers."""

    add_special_tokens: bool | None = None
    split_special_tokens: bool | None = None


class GenerationBody(GuidedBody, foreign.ForeignBody, Body):
    """What both generating routes take."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Bias = ()
    seed: int | None = None
    stop: Stops = ()
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    allowed_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: int | None = None
    priority: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    dyno: DynoOptions | None = None

    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None
    verbosity: str | None = None
    reasoning_effort: str | None = None

    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    modalities: Any = None
    prediction: Any = None
    web_search_options: Any = None


class CompletionBody(GenerationBody, foreign.ForeignCompletionBody, ReadingBody):
    prompt: Prompts
    logprobs: int | None = None
    echo: bool | None = None
    suffix: Any = None
    best_of: Any = None


class MessageBody(Body):
    """A message; one of an answer may come back with every field that a client has for it."""

    role: str
    content: Content

    name: Any = None
    type: Any = None
    refusal: Any = None
    annotations: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    reasoning_details: Any = None
    reasoning_items: Any = None
    thinking_blocks: Any = None
    provider_specific_fields: Any = None

    audio: Any = None
    images: Any = None
    function_call: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None


class ChatBody(GenerationBody, foreign.ForeignChatBody):
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = UNSUPPORTED_IN_CHAT

    messages: list[MessageBody]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class TokenizeBody(ReadingBody):
    """vLLM's shape."""

    prompt: str
    model: str | None = None


class DetokenizeBody(Body):
    model: str | None = None
    tokens: list[int]
