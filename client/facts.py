"""What the server says a request cost, as frozen values; docs/telemetry.md defines them. Times in seconds."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass
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
    forward: float = 0.0  # inside the model
    delayed: float = 0.0  # of that, what neighbours' prompts took of passes that it decoded in
    preempted: float = 0.0  # without cache blocks, until the next token, its passes apart


@dataclass(frozen=True, slots=True)
class Cache:
    """What the cache did for one choice."""

    cached_tokens: int
    recomputed_tokens: int
    preemptions: int
    peak_bytes: int
    byte_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Forward passes one choice took part in, the mean number of requests that shared them, and how many tokens the
    server guessed ahead and how many of those were right."""

    count: int
    mean_batch: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations by part."""

    projections: int
    scores: int
    feed_forward: int
    experts: int
    router: int
    head: int
    total: int


@dataclass(frozen=True, slots=True)
class Compute:
    """What one choice computed and moved; of what a forward pass does once for all its rows, its share by tokens."""

    flops: Flops
    weight_bytes: float
    cache_read_bytes: int
    cache_written_bytes: int
    tokens: int
    passes: float
    seconds: float
    parameters: int
    memory_bound_seconds: float = 0.0
    compute_bound_seconds: float = 0.0


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
    margin: float = 0.0  # how far the last chosen expert was ahead of the best that was not


@dataclass(frozen=True, slots=True)
class RoutingSummary:
    """All layers of one choice together; means are over layers."""

    layers: int
    dropped: int
    touched_experts: int
    experts: int
    entropy: float
    lowest_entropy: float
    imbalance: float
    highest_imbalance: float
    busiest_share: float
    mean_gate: float
    margin: float


@dataclass(frozen=True, slots=True)
class TokenRouting:
    """Expert ids (int16) and gates (float16) of every token from position `start` on, packed little-endian as (tokens,
    layers, top_k). `truncated`: the server left tokens after the last one out."""

    expert_ids: bytes
    tokens: int
    layers: int
    top_k: int
    gates: bytes = b""
    start: int = 0
    truncated: bool = False

    def array(self) -> npt.NDArray[np.int16]:
        """Expert ids in order of choice, (tokens, layers, top_k) int16; -32768 pads, ~id was dropped: no capacity."""
        shape = (self.tokens, self.layers, self.top_k)
        return np.frombuffer(self.expert_ids, dtype="<i2").astype(np.int16).reshape(shape)

    def weights(self) -> npt.NDArray[np.float16]:
        """The gate of each choice, (tokens, layers, top_k) float16; 0 where there is no choice."""
        shape = (self.tokens, self.layers, self.top_k)
        return np.frombuffer(self.gates, dtype="<f2").astype(np.float16).reshape(shape)


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts the tokens of one choice went to: the prompt and every output but the last."""

    tokens: int
    layers: tuple[LayerRouting, ...]  # none where only the summary was asked for
    token_routing: TokenRouting | None = None
    summary: RoutingSummary | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Why and how one choice ended. An endpoint that is not Dyno's leaves everything after `usage` out."""

    finish_reason: str
    usage: Usage
    latency: Latency | None = None
    cache: Cache | None = None
    steps: Steps | None = None
    routing: Routing | None = None
    compute: Compute | None = None


_T = TypeVar("_T")


def facts_from_json(data: Mapping[str, Any]) -> Facts:
    """The FACTS object of REST answers; unknown fields are passed over. Raises KeyError where one is missing."""
    latency, compute = data["latency"], data.get("compute")
    return Facts(
        finish_reason=data["finish_reason"],
        usage=_read(Usage, data["usage"]),
        latency=latency and _read(Latency, latency, inter_token=_read(Spread, latency["inter_token"])),
        cache=data["cache"] and _read(Cache, data["cache"]),
        steps=data["steps"] and _read(Steps, data["steps"]),
        routing=_routing_from_json(data.get("routing")),
        compute=compute and _read(Compute, compute, flops=_read(Flops, compute["flops"])),
    )


def _read(kind: type[_T], data: Mapping[str, Any], **made: Any) -> _T:
    """A value of `kind` from the fields of the same names, `made` in place of those that need more than copying. Older
    servers do not tell what has a default."""
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    told = [name for name in names if name in data or names[name].default is MISSING]
    return kind(**{name: made[name] if name in made else data[name] for name in told})


def _routing_from_json(data: Mapping[str, Any] | None) -> Routing | None:
    if data is None:
        return None
    layers = tuple(_read(LayerRouting, one, expert_tokens=tuple(one["expert_tokens"])) for one in data["layers"])
    packed, summary = data.get("token_routing"), data.get("summary")
    detail = packed and _read(
        TokenRouting, packed, expert_ids=b64decode(packed["expert_ids"]), gates=b64decode(packed.get("gates", ""))
    )
    return Routing(data["tokens"], layers, detail or None, summary and _read(RoutingSummary, summary))


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """The facts as an object of JSON values; `facts_from_json` reads it."""
    data = asdict(facts)
    if facts.routing is not None and facts.routing.token_routing is not None:
        packed = data["routing"]["token_routing"]
        packed |= {name: b64encode(packed[name]).decode() for name in ("expert_ids", "gates")}
    return data
