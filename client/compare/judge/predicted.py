"""What a token costs: as the model's card predicts it, and as the requests tell. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.api import ModelCard
from client.compare.measure.results import Results
from client.load.record import Record


@dataclass(frozen=True, slots=True)
class Costs:
    """Operations and cache bytes of one token, predicted and told; 0 where nobody tells."""

    flops: float
    flops_told: float
    cache: float
    cache_told: float


def costs(results: Results, architecture: int, level: int) -> Costs:
    """All requests of one place together."""
    records = [r for m in results.of(architecture, level) for r in m.run.records if r.ok]
    card = results.cards[architecture]
    lengths = [r.prompt_tokens + r.completion_tokens for r in records if r.prompt_tokens]
    state = card.state_bytes / float(np.median(lengths)) if lengths else 0.0
    return Costs(_predicted(card, records), _flops(records), card.cache_bytes_per_token + state, _cache(records))


def peak_bytes(results: Results, architecture: int) -> float:
    """Mean cache bytes of a request at its peak, all loads together; 0 where nobody tells."""
    records = _answered(results, architecture)
    told = [r.facts.cache.peak_bytes for r in records if r.facts is not None and r.facts.cache is not None]
    return float(np.mean(told)) if told else 0.0


def flops(results: Results, architecture: int) -> float:
    """Operations of one token as served, all loads together; 0 where nobody tells."""
    return _flops(_answered(results, architecture))


def _answered(results: Results, architecture: int) -> list[Record]:
    return [r for m in results.measured if m.cell.architecture == architecture for r in m.run.records if r.ok]


def _predicted(card: ModelCard, records: Sequence[Record]) -> float:
    """Operations at the mean position of the tokens, on the line through the two lengths that a card tells: operations
    grow with the position in a straight line, but for windows, which the card does not tell apart."""
    told = sorted((int(length), float(flops)) for length, flops in card.card.get("flops_per_token", {}).items())
    lengths = [r.prompt_tokens + r.completion_tokens for r in records]
    if len(told) < 2 or not sum(lengths):
        return 0.0
    (near, low), (far, high) = told[0], told[-1]
    position = sum(n * n for n in lengths) / 2 / sum(lengths)
    return low + (high - low) * (position - near) / (far - near)


def _flops(records: Sequence[Record]) -> float:
    computed = [r.facts.compute for r in records if r.facts is not None and r.facts.compute is not None]
    tokens = sum(one.tokens for one in computed)
    return sum(one.flops.total for one in computed) / tokens if tokens else 0.0


def _cache(records: Sequence[Record]) -> float:
    """Pages are whole and only the last is part empty, so this is a little above what a token keeps."""
    told = [
        r.facts.cache.peak_bytes / (r.prompt_tokens + r.completion_tokens)
        for r in records
        if r.facts is not None and r.facts.cache is not None and r.prompt_tokens
    ]
    return float(np.median(told)) if told else 0.0
