"""How well a model knows text that no zoo model was trained on: bits per byte, less is better. Of whole passages, and
apart by how far into a text tokens stand, which shows what a model is worth beyond the lengths it was trained on."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

from client.access import Access
from client.api import ClientError
from client.load.prompts import passages
from client.rest import RestClient

PASSAGES = 200  # all that ship: twelve could not tell the two trained models apart
LONG_TEXTS = 16  # at most: passages put together, where bounds ask for long ones
MOST_SECONDS = 300  # for one text


class ScoringError(Exception):
    """A model that could not be scored; the message says why."""


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely one text is to a model: the log-probability of so many bytes."""

    logprob: float
    bytes: int
    tokens: int = 0  # none in results of older versions

    @property
    def bits(self) -> float:
        return -self.logprob / log(2)


def bits_per_byte(texts: Sequence[Scored]) -> float:
    """Bits per byte of all texts together. Raises ZeroDivisionError where they have no bytes."""
    return sum(one.bits for one in texts) / sum(one.bytes for one in texts)


@dataclass(frozen=True, slots=True)
class Band:
    """Tokens of long texts at positions [start, stop)."""

    start: int
    stop: int
    bits_per_byte: float
    each: tuple[Scored, ...] = ()  # text by text; none in results of older versions


@dataclass(frozen=True, slots=True)
class Quality:
    """Bits per byte over some held passages; the first token of each has nothing before it and is left out with its
    bytes. `bands` are of longer texts, where bounds were asked for."""

    bits_per_byte: float
    bytes: int
    passages: int
    bands: tuple[Band, ...] = ()
    each: tuple[Scored, ...] = ()  # passage by passage; none in results of older versions
    left_out: tuple[int, ...] = ()  # places of passages that were not asked about: too long for one of the models

    @property
    def places(self) -> list[int]:
        """Which passages these are, of all that there were."""
        return [place for place in range(self.passages + len(self.left_out)) if place not in self.left_out]

    @property
    def tokens(self) -> int:
        """Tokens of all passages; 0 where they were not told."""
        return sum(one.tokens for one in self.each)

    def among(self, places: Collection[int]) -> Quality:
        """The quality over these passages alone; as it is where it does not know them apart, or has none of them."""
        told = dict(zip(self.places, self.each, strict=False))
        some = {place: one for place, one in told.items() if place in places}
        left_out = (place for place in range(max(some, default=0)) if place not in some)
        return _of(tuple(some.values()), self.bands, tuple(left_out)) if some else self


def _of(passages: Sequence[Scored], bands: Sequence[Band], left_out: tuple[int, ...]) -> Quality:
    size = sum(one.bytes for one in passages)
    return Quality(bits_per_byte(passages), size, len(passages), tuple(bands), tuple(passages), left_out)


def quality_from_json(data: Mapping[str, Any]) -> Quality:
    """Back from what `dataclasses.asdict` made of it."""
    bands = tuple(Band(**{**band, "each": _each(band)}) for band in data.get("bands", ()))
    left_out = tuple(data.get("left_out", ()))
    return Quality(**{**data, "bands": bands, "each": _each(data), "left_out": left_out})


def _each(data: Mapping[str, Any]) -> tuple[Scored, ...]:
    return tuple(Scored(**one) for one in data.get("each", ()))


def beginnings(length: int) -> list[int]:
    """The passages at which long texts of so many tokens begin: as many as there is room for, none a part of another.

    Each word is a token at least, and so is the blank line behind a passage. The tokenizer has no say, so that texts of
    all models are pairs.
    """
    sizes = [len(text.split()) + 1 for text in passages()]
    for count in range(LONG_TEXTS, 1, -1):
        step = len(sizes) // count
        found = range(0, count * step, step)
        if min(sum(sizes[first : first + step]) for first in found) >= length:
            return list(found)
    return [0]


class _Judge:
    """A model that is asked."""

    def __init__(self, client: RestClient, model: str) -> None:
        self._client, self._model = client, model

    async def passages(self, places: Sequence[int]) -> list[Scored]:
        """Those that ship with Dyno at these places."""
        found, texts = [], passages()
        for place in places:
            text = texts[place]
            _, told = await self._scores(text)
            logprob = sum(n for n in told["token_logprobs"][1:] if n is not None)
            size = len(text.encode()) - len(told["tokens"][0].encode())
            found.append(Scored(logprob, size, len(told["tokens"]) - 1))
        return found

    async def bands(self, bounds: Sequence[int]) -> tuple[Band, ...]:
        """How well the model knows long texts, at positions up to the first bound, and from each to the next."""
        edges = list(pairwise((1, *bounds)))
        found: list[list[Scored]] = [[] for _ in edges]
        for first in beginnings(bounds[-1]):
            ids = await self._ids(first, bounds[-1])
            if len(ids) < bounds[-1]:
                raise ScoringError(f"all passages together have {len(ids)} tokens, not {bounds[-1]}")
            text, told = await self._scores(ids)
            places = told["text_offset"]  # where a text can be cut: a character may be of several tokens
            for some, (start, stop) in zip(found, edges, strict=True):
                end = places[stop] if stop < len(places) else None
                size = len(text[places[start] : end].encode())
                logs = told["token_logprobs"][start:stop]
                some.append(Scored(sum(logs), size, len(logs)))
        return tuple(Band(*edge, bits_per_byte(some), tuple(some)) for some, edge in zip(found, edges, strict=True))

    async def _ids(self, first: int, length: int) -> list[int]:
        """The first tokens of passages one after another, from this one on."""
        texts, ids = passages(), list[int]()
        for more in range(len(texts)):
            ids += (await self._post("/tokenize", prompt=texts[(first + more) % len(texts)] + "\n\n"))["tokens"]
            if len(ids) >= length:
                break
        return ids[:length]

    async def _scores(self, prompt: str | list[int]) -> tuple[str, dict[str, Any]]:
        """The prompt as text, and what is told of its tokens."""
        body = {"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 0}
        choice = (await self._post("/v1/completions", **body))["choices"][0]
        return choice["text"], choice["logprobs"]

    async def _post(self, path: str, **body: object) -> dict[str, Any]:
        async with asyncio.timeout(MOST_SECONDS):
            return await self._client.json("POST", path, {"model": self._model, **body})


async def quality(
    target: str, model: str, places: Sequence[int] = range(PASSAGES), bounds: Sequence[int] = ()
) -> Quality:
    """Score the passages at these places, and longer texts between the bounds, in tokens, where there are some. Raises
    ScoringError for a server that cannot score them."""
    left_out = tuple(place for place in range(PASSAGES) if place not in places)
    try:
        async with RestClient(target, Access.from_environment()) as client:
            judge = _Judge(client, model)
            found = await judge.passages(places)
            return _of(found, await judge.bands(bounds) if bounds else (), left_out)
    except TimeoutError as error:
        raise ScoringError(f"no answer within {MOST_SECONDS:g} s") from error
    except (ClientError, OSError) as error:
        raise ScoringError(str(error)) from error
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ScoringError(f"the server does not tell how likely each token of a prompt is ({error!r})") from error
