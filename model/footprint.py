"""Bytes that requests hold in memory. No torch."""

from __future__ import annotations

from model import config
from model.cache import Carried, cache_entries, cache_entry
from model.config import Architecture, Attention

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}


def cache_bytes_per_token(architecture: Architecture, dtype: str = "bfloat16") -> int:
    """Bytes that one more token adds to the cache of a request while every layer still sees it."""
    return sum(entry.numbers for entry in cache_entries(architecture)) * BYTES[dtype]


def cache_bytes(architecture: Architecture, length: int, dtype: str = "bfloat16") -> int:
    """Bytes of cache of one request at a length: layers with a window or chunk hold no more than that, recurrent ones
    hold a state."""
    entries = cache_entries(architecture)
    paged = sum(entry.numbers * entry.span.reach(length) for entry in entries) * BYTES[dtype]
    return paged + state_bytes(architecture)


def state_bytes(architecture: Architecture) -> int:
    """Bytes of what recurrent mixers carry for one request, whatever its length; float32 in every type of model."""
    return sum(value.state_numbers for value in architecture.recurrents) * BYTES["float32"]


def read_bytes(architecture: Architecture, length: int, dtype: str = "bfloat16") -> int:
    """Bytes of cache one token reads and writes; an indexer reads all of its keys, attention only the chosen ones, a
    recurrent mixer the state before and writes the one after."""
    paged = (
        sum(
            numbers * positions_seen(attention.span, length - 1, length, most)
            for attention in architecture.attentions
            for most, numbers in looked_at(attention)
        )
        * BYTES[dtype]
    )
    return paged + state_bytes(architecture) * min(2, length)


def looked_at(attention: Attention) -> tuple[tuple[int | None, int], ...]:
    """What a token looks at, as (how many positions at most, cached numbers of each)."""
    numbers, indexer = cache_entry(attention).numbers, attention.indexer
    if indexer is None:
        return ((None, numbers),)
    return (indexer.top_k, numbers - indexer.dim), (None, indexer.dim)


def memory_bytes(architecture: Architecture, length: int, dtype: str = "bfloat16") -> int:
    """Bytes of keys and values that cross-attention keeps of a memory of `length` states."""
    return sum(2 * branch.heads.kv * branch.heads.dim for branch in architecture.crossings) * length * BYTES[dtype]


def positions_seen(span: config.Span | Carried, start: int, stop: int, most: int | None = None) -> int:
    """How many positions the queries at positions start to stop see together, each at most `most`."""
    if isinstance(span, config.Window):
        most = span.size if most is None else min(most, span.size)

    def below(count: int) -> int:
        if isinstance(span, config.Chunk):
            return count // span.size * triangle(span.size) + triangle(count % span.size)
        return triangle(count)

    def triangle(count: int) -> int:
        short = count if most is None else min(count, most)
        return short * (short + 1) // 2 + (count - short) * short

    return below(stop) - below(start)
