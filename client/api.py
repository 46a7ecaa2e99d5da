"""What a client can ask and what it gets: values, errors and the protocol that REST and gRPC both implement.

ClientError            the server refused or failed; has status, code and param as far as known
├── Unreachable        nobody answers at the target, or the connection broke before the first byte
└── StreamCut          a stream ended before its last word: what came so far is not an answer
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from client.facts import Facts
from client.live import RoutingLoad


class ClientError(Exception):
    """A request that got no whole answer.

    `status` is the HTTP status, or the one that corresponds to the gRPC code; 0 where there was no answer at all.
    `code` is the server's stable word for the reason, `param` the field at fault; both empty when unknown.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


class Unreachable(ClientError):
    """Nobody answers at the target."""


class StreamCut(ClientError):
    """The stream ended without its last word."""


class RoutingDetail(StrEnum):
    """How much routing detail to ask for."""

    NONE = "none"
    SUMMARY = "summary"
    LAYERS = "layers"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt for models with a chat template, oldest message first."""

    messages: tuple[Message, ...]


Prompt: TypeAlias = str | tuple[int, ...] | Conversation


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to stop; None leaves the choice to the server."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were set, by name: both wire formats use the same names."""
        return {name: value for name in _SAMPLING_FIELDS if (value := getattr(self, name)) is not None}


_SAMPLING_FIELDS = tuple(f.name for f in fields(Sampling))


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt to continue `n` times. `routing` None asks for no facts at all, for endpoints that are not Dyno's."""

    prompt: Prompt
    model: str = ""  # may be empty when the server has exactly one
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    routing: RoutingDetail | None = RoutingDetail.LAYERS
    user: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one choice. The last piece of each choice, and only that one, has `facts`.

    Text and tokens need not come together: a token may end inside a character. Servers that are not Dyno's tell no ids.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    facts: Facts | None = None
    id: str = ""  # the server's id of the request


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole continuation."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Answer:
    """Every choice of a request, by index."""

    id: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model. An endpoint that is not Dyno's tells little more than the name."""

    id: str
    context: int = 0
    vocab: int = 0
    total_parameters: int = 0
    active_parameters: int = 0
    cache_bytes_per_token: int = 0
    state_bytes: int = 0
    chat: bool = False
    attention: str = ""
    position: str = ""
    feed_forward: str = ""
    dtype: str = ""
    weights: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)  # what `dyno inspect --json` tells of it


class Client(Protocol):
    """A connection to a server, over any transport. Use it as an async context manager, in one event loop.

    Every method raises ClientError, Unreachable or StreamCut and nothing else for what the server or the network does.
    """

    @property
    def target(self) -> str:
        """Where it is connected to, as a URL."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """The pieces as they arrive. Closing the generator early cancels the request at the server."""
        ...

    async def models(self) -> tuple[ModelCard, ...]: ...

    async def tokenize(self, text: str, model: str = "") -> tuple[int, ...]: ...

    def watch_routing(self, model: str = "", interval: float = 1.0) -> AsyncGenerator[RoutingLoad, None]:
        """The load of a model's experts every `interval` seconds, until the server says that there is no more."""
        ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def collect(pieces: AsyncIterable[Piece]) -> Answer:
    """The whole answer. Raises StreamCut when a choice never ended."""
    parts: dict[int, list[Piece]] = {}
    async for piece in pieces:
        parts.setdefault(piece.index, []).append(piece)
    if not parts:
        raise StreamCut("the stream ended before anything came")
    return Answer(parts[min(parts)][0].id, tuple(_choice(parts[index]) for index in sorted(parts)))


def _choice(pieces: list[Piece]) -> Choice:
    facts = pieces[-1].facts
    if facts is None:
        raise StreamCut(f"the stream ended before choice {pieces[0].index} had ended")
    ids = tuple(token for piece in pieces for token in piece.token_ids)
    return Choice(pieces[0].index, "".join(piece.text for piece in pieces), ids, facts)
