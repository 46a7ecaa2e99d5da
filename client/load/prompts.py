"""What is asked under load: passages of tales, random token ids, families with a common beginning. Pure, seeded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TypeAlias

import numpy as np
import orjson

# Each further round through the passages starts so many words later, so that no prefix cache answers for the first. A
# prime above every passage's length: it takes a passage through all of its words before it begins like itself again.
_SHIFT = 151

Seed: TypeAlias = int | tuple[int, ...]


@cache
def passages() -> tuple[str, ...]:
    """The passages that ship with Dyno, 60 to 150 words each, from public-domain tales."""
    lines = files("client.load").joinpath("prompts.jsonl").read_bytes().splitlines()
    return tuple(orjson.loads(line)["text"] for line in lines[1:])


def tales(count: int, seed: Seed, start: int = 0) -> tuple[str, ...]:
    """`count` passages in an order of the seed's, from place `start` of a sequence in which none begins like another:
    past the last passage they come again, each time from a later word."""
    texts = passages()
    order = np.random.default_rng(seed).permutation(len(texts))
    places = range(start, start + count)
    return tuple(_rotated(texts[order[i % len(texts)]], i // len(texts) * _SHIFT) for i in places)


def _rotated(text: str, words: int) -> str:
    if words == 0:
        return text
    parts = text.split()
    cut = words % len(parts)
    return " ".join(parts[cut:] + parts[:cut])


def cut(ids: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Each prompt cut to its length; one that is too short goes on with the next ones' tokens."""
    return tuple(_continued(ids, i, length) for i, length in zip(range(len(ids)), lengths, strict=True))


def _continued(ids: Sequence[Sequence[int]], start: int, length: int) -> tuple[int, ...]:
    tokens: list[int] = []
    position = start
    while len(tokens) < length:
        if not ids[position % len(ids)]:
            raise ValueError("a prompt of no tokens cannot be continued")
        tokens += ids[position % len(ids)]
        position += 1
    return tuple(tokens[:length])


def random_ids(count: int, length: int, vocab: int, seed: Seed) -> tuple[tuple[int, ...], ...]:
    """`count` prompts of `length` ids drawn evenly from [0, vocab): no two share a prefix but by chance."""
    rng = np.random.default_rng(seed)
    return tuple(tuple(row) for row in rng.integers(0, vocab, (count, length)).tolist())


def shared_prefix(
    count: int, length: int, vocab: int, seed: int, start: int = 0, *, share: float = 0.75, families: int = 1
) -> tuple[tuple[int, ...], ...]:
    """Prompts of `length` random ids of which the first `share` are common to a family, as system prompts are.

    The families are the seed's, whatever `start`; the rest of each prompt is of its own.
    """
    common = int(length * share)
    heads = random_ids(families, common, vocab, (seed,))
    tails = random_ids(count, length - common, vocab, (seed, start, 1))
    return tuple(heads[i % families] + tail for i, tail in enumerate(tails))
