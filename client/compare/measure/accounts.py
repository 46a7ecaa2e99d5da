"""What a server's own counters say of a stretch of time: two readings of /metrics and what lies between them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from client.access import Access
from client.api import ClientError, ModelCard
from client.rest import RestClient

_LINE = re.compile(r"^([\w:]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_CACHE = "vllm:cache_config_info"  # a name that several servers share
_BUILD = "dyno_build_info"
_EVERYTHING = "everything before"  # what layers without a window see, in the words of a card
MOST_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Reading:
    """Sums over all labels but the model's and `bound`, by name without `_total`; and the routed layers."""

    values: Mapping[str, float]
    layers: int
    cache_tokens: int = 0  # that the cache holds
    build: tuple[str, ...] = ()  # what runs: "torch 2.9" and so on


@dataclass(frozen=True, slots=True)
class Account:
    """One model's work between two readings; 0 where the server does not tell."""

    passes: float
    tokens: float
    flops: float
    moved_bytes: float
    forward_seconds: float
    least_seconds: float  # of the same steps, at what the machine can do at best
    distinct_experts: float  # a pass and layer, summed over passes
    layers: int
    memory_bound_seconds: float = 0.0  # of the least

    @property
    def memory_bound(self) -> float:
        """Share of the least time that passes would wait for memory, not for operations."""
        return self._over(self.memory_bound_seconds, self.least_seconds)

    @property
    def roofline_share(self) -> float:
        """The least time over the time inside the model; NaN where the server has not measured its machine."""
        return self._over(self.least_seconds, self.forward_seconds)

    @property
    def batch(self) -> float:
        """Tokens a forward pass."""
        return self._over(self.tokens, self.passes)

    @property
    def flops_per_token(self) -> float:
        return self._over(self.flops, self.tokens)

    @property
    def bytes_per_token(self) -> float:
        """Bytes moved."""
        return self._over(self.moved_bytes, self.tokens)

    @property
    def experts_a_pass(self) -> float:
        """Distinct experts that one pass touches in one layer; every one of them is read from memory."""
        return self._over(self.distinct_experts, self.passes * self.layers)

    @staticmethod
    def _over(part: float, whole: float) -> float:
        return part / whole if part and whole else float("nan")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse(text: str, model: str) -> Reading:
    """One model's samples of a Prometheus exposition."""
    values: dict[str, float] = {}
    layers, cache_tokens = set(), 0
    build: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith("#") or not (found := _LINE.match(line)):
            continue
        labels = dict(_LABEL.findall(found[2] or ""))
        if found[1] == _BUILD:
            build = tuple(f"{name} {value}" for name, value in labels.items() if value)
        if model not in (labels.get("model"), labels.get("model_name")):
            continue
        if found[1] == _CACHE:
            cache_tokens = int(labels.get("block_size", 0)) * int(labels.get("num_gpu_blocks", 0))
        name = found[1].removesuffix("_total") + (f"/{labels['bound']}" if "bound" in labels else "")
        values[name] = values.get(name, 0.0) + float(found[3])
        if name == "dyno_distinct_experts":
            layers.add(labels.get("layer"))
    return Reading(values, len(layers), cache_tokens, build)


async def read(target: str, model: str) -> Reading | None:
    """Read a server's counters of a model; None where it has none, or does not answer: they are an extra."""
    try:
        async with asyncio.timeout(MOST_SECONDS), RestClient(target, Access.from_environment()) as client:
            found = parse(await client.text("/metrics"), model)
    except (ClientError, TimeoutError, OSError, ValueError):
        return None
    return found if found.values else None


_COUNTERS = {
    "passes": "dyno_forward_passes",
    "tokens": "dyno_computed_tokens",
    "flops": "dyno_flops",
    "moved_bytes": "dyno_moved_bytes",
    "forward_seconds": "dyno_forward_seconds",
    "least_seconds": "dyno_forward_least_seconds",
    "memory_bound_seconds": "dyno_forward_bound_seconds/memory",
    "distinct_experts": "dyno_distinct_experts",
}


def between(before: Reading | None, after: Reading | None) -> Account | None:
    """The work between two readings; None where either is missing."""
    if before is None or after is None:
        return None
    grown = {field: after.values.get(name, 0.0) - before.values.get(name, 0.0) for field, name in _COUNTERS.items()}
    return Account(layers=after.layers, **grown)


def together(accounts: Iterable[Account | None]) -> Account | None:
    """The sum of all; None of nothing."""
    told = [one for one in accounts if one is not None]
    if not told:
        return None
    return Account(layers=told[0].layers, **{name: sum(getattr(one, name) for one in told) for name in _COUNTERS})


def capacity(reading: Reading | None, card: ModelCard) -> int:
    """Tokens that the cache holds; 0 where the server does not tell, and of a model of windows alone: what is behind
    them is let go of, so that its requests may be of any length."""
    sees = card.card.get("description", {}).get("sees", "")
    of_windows = sees and _EVERYTHING not in sees
    return 0 if reading is None or of_windows else reading.cache_tokens


def account_from_json(data: Mapping[str, Any] | None) -> Account | None:
    """What `to_json` wrote."""
    return None if data is None else Account(**data)
