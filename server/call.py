"""What is asked of the service and what comes back, as values that know no transport. None means: not given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np

from server.engine.request import Outcome, Routes, TokenLogprobs, Trace
from server.engine.stats import RequestStats
from server.tenancy import EVERYBODY, Tenant

BYTES_A_CHOICE = 4  # an id and a gate


class RoutingDetail(StrEnum):
    """How much is told about the experts a request's tokens went to."""

    NONE = "none"
    SUMMARY = "summary"  # all layers together
    LAYERS = "layers"  # each layer as well
    TOKENS = "tokens"  # every token as well


@dataclass(frozen=True, slots=True)
class FactWishes:
    """Which accounts are given of each choice; usage and what the cache did are always told."""

    routing: RoutingDetail = RoutingDetail.LAYERS
    latency: bool = True
    compute: bool = True
    routing_start: int = 0  # with TOKENS: the first position told


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Oldest message first; only models with a chat template take one."""

    messages: tuple[Message, ...]


Prompt: TypeAlias = str | tuple[int, ...] | Conversation


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts become ids, but for those of conversations, which their template frames."""

    framed: bool = True  # with what the tokenizer puts around a text, as a token for its beginning
    markup: bool = True  # special tokens that are written in a text are such, and no plain text


class GuidanceKind(StrEnum):
    """How a form of the answer is described."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True)
class Guidance:
    """A form that the whole answer must have: described in `text`, or `choices`. `param`: where the caller said so."""

    kind: GuidanceKind
    param: str
    text: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingWishes:
    """What the caller asks of sampling; the validator fills in what is None."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    allowed_token_ids: tuple[int, ...] | None = None
    include_stop: bool = False  # show what ended the generation


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """One call: each prompt is continued `n` times, choice p * n + i is continuation i of prompt p.

    With `echo` or `prompt_logprobs` the answer tells the prompt's tokens too, and max_tokens may be 0.
    """

    model: str | None
    prompts: tuple[Prompt, ...]
    sampling: SamplingWishes = SamplingWishes()
    reading: Reading = Reading()
    n: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    guidance: Guidance | None = None
    priority: int | None = None  # the lower, the earlier
    facts: FactWishes = FactWishes()
    user: str | None = None
    tenant: Tenant = EVERYBODY
    fill_context: bool = False  # without max_tokens: generate until the context is full, not DEFAULT_MAX_TOKENS
    arrived: float | None = None  # the service's clock when the call reached the transport
    seconds: float | None = None  # how long the caller waits for the whole answer
    trace: Trace | None = None  # the caller's
    given_id: str | None = None  # what its caller calls it

    @property
    def tells_prompt(self) -> bool:
        return self.echo or self.prompt_logprobs is not None


@dataclass(frozen=True, slots=True)
class Finished:
    """Why and how a choice ended. `routes` is there only when the call asked for the experts of every token."""

    outcome: Outcome  # STOP or LENGTH; anything else is raised, not told
    stats: RequestStats
    routes: PackedRoutes | None


@dataclass(frozen=True, slots=True)
class PackedRoutes:
    """Expert ids (int16) and gates (float16) of tokens from position `start` on as bytes: little-endian, row-major
    (tokens, layers, top_k). `truncated`: tokens after the last one were left out."""

    expert_ids: bytes
    gates: bytes
    start: int
    tokens: int
    layers: int
    top_k: int
    truncated: bool

    @classmethod
    def of(cls, routes: Routes, start: int, most_bytes: int) -> PackedRoutes:
        """The routes of tokens from `start` on, of as many as `most_bytes` hold."""
        _, layers, top_k = routes.experts.shape
        room = most_bytes // max(1, layers * top_k * BYTES_A_CHOICE)
        part = routes.part(start, start + room)
        gates = np.minimum(part.gates, np.finfo(np.float16).max).astype("<f2").tobytes()
        left_out = start + len(part) < len(routes)
        return cls(part.experts.astype("<i2").tobytes(), gates, start, len(part), layers, top_k, left_out)


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the model read it, with log-probabilities when they were asked for; the first token has none."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...] | None

    def part(self, start: int, stop: int) -> PromptTokens:
        return PromptTokens(self.tokens[start:stop], None if self.logprobs is None else self.logprobs[start:stop])


@dataclass(frozen=True, slots=True)
class Piece:
    """What became ready for one choice in one step. `text` never holds half a character or a part of a stop string."""

    index: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    finished: Finished | None = None
    prompt: PromptTokens | None = None  # with a choice's first piece, when asked for


@dataclass(frozen=True, slots=True)
class WholeChoice:
    """Every piece of one choice put together."""

    index: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    finished: Finished
    prompt: PromptTokens | None = None
