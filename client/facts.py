"""What the server says a request cost: usage, latency, cache, steps, routing, as frozen values. Times in seconds."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one choice; `cached_tokens` is the part of the prompt found in the prefix cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in a few numbers; all zero when `count` is 0."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Where the time of one choice went, by the server's clock."""

    queued: float  # arrival → first scheduled
    prefill: float  # first scheduled → first token
    first_token: float  # arrival → first token
    decode: float  # first token → last token
    inter_token: Spread
    total: float  # arrival → end


@dataclass(frozen=True, slots=True)
class Cache:
    """What the cache did for one choice."""

    cached_tokens: int
    recomputed_tokens: int
    preemptions: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Steps:
    """Forward passes one choice took part in, the mean number of requests that shared them, and how many tokens the
    server guessed ahead and how many of those were right."""

    count: int
    mean_batch: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """What one mixture layer did with the tokens of one choice."""

    layer: int
    expert_tokens: tuple[int, ...]
    dropped: int
    entropy: float  # of the load over experts, 0 (one expert) .. 1 (even)
    imbalance: float  # busiest expert's load over the mean load
    busiest_share: float
    mean_gate: float


@dataclass(frozen=True, slots=True)
class TokenRouting:
    """Expert ids of every token, packed as little-endian int16 (tokens, layers, top_k)."""

    expert_ids: bytes
    tokens: int
    layers: int
    top_k: int

    def array(self) -> npt.NDArray[np.int16]:
        """(tokens, layers, top_k) int16: ids in order of choice; -32768 pads, ~id was dropped for lack of capacity."""
        shape = (self.tokens, self.layers, self.top_k)
        return np.frombuffer(self.expert_ids, dtype="<i2").astype(np.int16).reshape(shape)


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts the tokens of one choice went to: the prompt and every output but the last."""

    tokens: int
    layers: tuple[LayerRouting, ...]
    token_routing: TokenRouting | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Why and how one choice ended. An endpoint that is not Dyno's leaves everything after `usage` out."""

    finish_reason: str
    usage: Usage
    latency: Latency | None = None
    cache: Cache | None = None
    steps: Steps | None = None
    routing: Routing | None = None


_T = TypeVar("_T")


def facts_from_json(data: Mapping[str, Any]) -> Facts:
    """The FACTS object of REST answers; unknown fields are passed over. Raises KeyError where one is missing."""
    latency = data["latency"]
    return Facts(
        finish_reason=data["finish_reason"],
        usage=_read(Usage, data["usage"]),
        latency=latency and _read(Latency, latency, inter_token=_read(Spread, latency["inter_token"])),
        cache=data["cache"] and _read(Cache, data["cache"]),
        steps=data["steps"] and _read(Steps, data["steps"]),
        routing=_routing_from_json(data.get("routing")),
    )


def _read(kind: type[_T], data: Mapping[str, Any], **made: Any) -> _T:
    """A value of `kind` from the fields of the same names, `made` in place of those that need more than copying."""
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: made[name] if name in made else data[name] for name in names})


def _routing_from_json(data: Mapping[str, Any] | None) -> Routing | None:
    if data is None:
        return None
    layers = tuple(_read(LayerRouting, one, expert_tokens=tuple(one["expert_tokens"])) for one in data["layers"])
    packed = data.get("token_routing")
    detail = packed and _read(TokenRouting, packed, expert_ids=b64decode(packed["expert_ids"]))
    return Routing(data["tokens"], layers, detail or None)


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """The same object back, ready for a JSON writer; `facts_from_json` reads it."""
    data = asdict(facts)
    if facts.routing is not None and facts.routing.token_routing is not None:
        data["routing"]["token_routing"]["expert_ids"] = b64encode(facts.routing.token_routing.expert_ids).decode()
    return data
