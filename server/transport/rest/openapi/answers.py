"""The bodies that REST answers with, for the document only: answers are written without these, and held to them by a
test. A field that is not in one of them is a mistake of one or the other."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from server.transport.rest.openapi.accounts import Facts

Count: TypeAlias = Annotated[int, Field(ge=0)]
Finish: TypeAlias = Annotated[
    Literal["stop", "length"] | None,
    Field(
        description="`stop`: an end token, a stop string or token, or a form that is complete; `length`: `max_tokens`; "
        "in a stream null before the last chunk of the choice."
    ),
]
TokenIds: TypeAlias = Annotated[list[int] | None, Field(description="Ids of the tokens generated; only with `dyno`.")]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorDetail(Answer):
    """What went wrong."""

    message: str = Field(description="Names the field, its value and the limit.")
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "rate_limit_error",
        "server_error",
    ] = Field(description="OpenAI's word for the kind of error; goes with the status.")
    param: str | None = Field(description="The field at fault, as a path: `messages[0].role`.")
    code: str | None = Field(description="A stable word; see Errors.")


class Error(Answer):
    """The body of every answer that is not a success, and the last event of a stream that fails."""

    error: ErrorDetail


class CachedTokens(Answer):
    """More about the prompt's tokens."""

    cached_tokens: Count = Field(description="Prompt tokens whose cache entries were found ready.")


class Usage(Answer):
    """Token counts of the whole request."""

    prompt_tokens: Count = Field(description="Tokens of the prompt, or of all of them together.")
    completion_tokens: Count = Field(description="Tokens generated, all choices together.")
    total_tokens: Count = Field(description="Both.")
    prompt_tokens_details: CachedTokens | None = Field(None, description="Not in the chunks before the last one.")


class CompletionLogprobs(Answer):
    """Lists with one entry per token."""

    tokens: list[str] = Field(description="The texts of the tokens.")
    token_logprobs: list[float | None] = Field(
        description="Natural logarithms of their probabilities; null for the first one of a prompt."
    )
    top_logprobs: list[dict[str, float] | None] = Field(
        description="The likeliest tokens there, the chosen one always among them. Of several with the same text the "
        "chosen or the likeliest goes by it, the others as `token_id:ID`."
    )
    text_offset: list[Count] = Field(description="Where in the text of the choice each begins, in characters.")


class TopLogprob(Answer):
    """A token that could have been chosen."""

    token: str = Field(description="Its text.")
    logprob: float = Field(description="Natural logarithm of its probability.")
    bytes: list[int] = Field(description="Its own bytes; several tokens may make one character.")


class ChatLogprob(TopLogprob):
    """A token that was chosen."""

    top_logprobs: list[TopLogprob] = Field(description="The likeliest tokens there, best first.")


class ChatLogprobs(Answer):
    """One entry per token."""

    content: list[ChatLogprob] = Field(description="The tokens of the answer.")


class PromptLogprob(Answer):
    """The log-probability of a token of the prompt."""

    logprob: float = Field(description="Natural logarithm of its probability.")
    rank: int = Field(description="Its place among all tokens, 1 for the likeliest.")
    decoded_token: str = Field(description="Its text.")


PromptLogprobs: TypeAlias = Annotated[
    list[dict[str, PromptLogprob] | None] | None,
    Field(description="Only with `prompt_logprobs`: of every token by id; null for the first."),
]


class CompletionChoice(Answer):
    """One continuation, or in a stream what is new of it."""

    index: Count = Field(description="Which prompt and which of its `n`: prompt × n + i.")
    text: str = Field(description="The text; in a stream, what is new. May be empty.")
    logprobs: CompletionLogprobs | None = Field(description="Only with `logprobs`.")
    finish_reason: Finish
    token_ids: TokenIds = None
    prompt_logprobs: PromptLogprobs = None


class ChatMessage(Answer):
    """The assistant's message."""

    role: Literal["assistant"] = Field(description="Who speaks.")
    content: str = Field(description="The text.")
    refusal: None = Field(description="Always null.")


class ChatDelta(Answer):
    """What is new of a message."""

    role: Literal["assistant"] | None = Field(None, description="In the first chunk of a choice only.")
    content: str = Field(description="What is new of the text; may be empty.")


class ChatChoice(Answer):
    """One answer."""

    index: Count = Field(description="Which of the `n`.")
    message: ChatMessage
    logprobs: ChatLogprobs | None = Field(description="Only with `logprobs`.")
    finish_reason: Finish
    token_ids: TokenIds = None
    prompt_logprobs: PromptLogprobs = None


class ChatChunkChoice(Answer):
    """What is new of one answer."""

    index: Count = Field(description="Which of the `n`.")
    delta: ChatDelta
    logprobs: ChatLogprobs | None = Field(description="Only with `logprobs`.")
    finish_reason: Finish
    token_ids: TokenIds = None
    prompt_logprobs: PromptLogprobs = None


class WholeFacts(Answer):
    """What the request cost."""

    id: str = Field(description="The server's id of the request.")
    choices: list[Facts] = Field(description="One entry per choice.")


class Envelope(Answer):
    id: str = Field(description="The server's id of the request, after `cmpl-` or `chatcmpl-`.")
    created: int = Field(description="When, in seconds since 1970.")
    model: str = Field(description="The model that answers.")


class Completion(Envelope):
    """A whole answer of `/v1/completions`."""

    object: Literal["text_completion"] = Field(description="What this is.")
    choices: list[CompletionChoice] = Field(description="One entry per prompt and continuation, by index.")
    usage: Usage
    dyno: WholeFacts | None = Field(None, description="Only with `dyno`.")


class CompletionChunk(Envelope):
    """One event of a stream of `/v1/completions`."""

    object: Literal["text_completion"] = Field(description="What this is.")
    choices: list[CompletionChoice] = Field(description="One entry; none in the last chunk, which has the usage.")
    usage: Usage | None = Field(None, description="Only with `stream_options`.")
    dyno: Facts | None = Field(None, description="Only with `dyno`, in the last chunk of a choice.")


class ChatCompletion(Envelope):
    """A whole answer of `/v1/chat/completions`."""

    object: Literal["chat.completion"] = Field(description="What this is.")
    choices: list[ChatChoice] = Field(description="One entry per answer, by index.")
    usage: Usage
    dyno: WholeFacts | None = Field(None, description="Only with `dyno`.")


class ChatChunk(Envelope):
    """One event of a stream of `/v1/chat/completions`."""

    object: Literal["chat.completion.chunk"] = Field(description="What this is.")
    choices: list[ChatChunkChoice] = Field(description="One entry; none in the last chunk, which has the usage.")
    usage: Usage | None = Field(None, description="Only with `stream_options`.")
    dyno: Facts | None = Field(None, description="Only with `dyno`, in the last chunk of a choice.")


class Tokens(Answer):
    """A text in tokens."""

    tokens: list[int] = Field(description="The token ids, in order.")
    count: Count = Field(description="How many.")
    max_model_len: int = Field(description="The model's context, in tokens.")


class Text(Answer):
    """Tokens as a text."""

    prompt: str = Field(description="The text.")


class Card(Answer):
    """The model's architecture."""

    context: int = Field(description="Longest prompt plus output, in tokens.")
    vocab: int = Field(description="Size of the vocabulary.")
    total_parameters: int = Field(description="All parameters.")
    active_parameters: int = Field(description="Parameters that one token uses.")
    cache_bytes_per_token: int = Field(description="Cache bytes that one token holds, windows left out of account.")
    state_bytes: int = Field(description="Bytes of the state that a request carries, whatever its length.")
    chat: bool = Field(description="Whether it has a chat template.")
    attention: str = Field(description="In words.")
    position: str = Field(description="In words.")
    feed_forward: str = Field(description="In words.")
    dtype: str = Field(description="Type of weights and cache: float32 or bfloat16.")
    weights: str = Field(description="How linear layers are kept: lossless, whole, int8 or w8a8.")
    architecture: dict[str, Any] = Field(description="The whole architecture.")
    card: dict[str, Any] = Field(description="What `dyno inspect --json` says of it.")


class Model(Answer):
    """A served model."""

    id: str = Field(description="The name it is served under.")
    object: Literal["model"] = Field(description="What this is.")
    created: int = Field(description="Since when the server serves, in seconds since 1970.")
    owned_by: Literal["dyno"] = Field(description="Always dyno.")
    root: str = Field(description="The same as `id`.")
    parent: None = Field(description="Always null.")
    max_model_len: int = Field(description="Longest prompt plus output, in tokens.")
    dyno: Card


class ModelList(Answer):
    """The served models."""

    object: Literal["list"] = Field(description="What this is.")
    data: list[Model] = Field(description="One entry per model.")


class Status(Answer):
    """All is well."""

    status: Literal["alive", "ready"] = Field(description="What was asked for.")


class Version(Answer):
    """The server's version."""

    version: str = Field(description="Of the package dyno.")


class State(BaseModel):
    """Internal state, for people; its form may change at any time."""

    model_config = ConfigDict(extra="allow")
    phase: str = Field(description="What the server is doing.")
    calls: int = Field(description="Calls in flight.")
