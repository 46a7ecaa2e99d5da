"""How well a model knows text that no zoo model was trained on: bits per byte, less is better. Of whole passages, and
apart by how far into a text tokens stand, which shows what a model is worth beyond the lengths it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

import aiohttp

from client.access import Access
from client.load.prompts import passages

PASSAGES = 12
LONG_TEXTS = 16  # passages put together, where bounds ask for long ones
_TIMEOUT = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True, slots=True)
class Band:
    """Tokens of long texts at positions [start, stop)."""

    start: int
    stop: int
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Over some held passages; the first token of each has nothing before it and is left out with its bytes. `bands`
    are of longer texts, where bounds were asked for."""

    bits_per_byte: float
    bytes: int
    passages: int
    bands: tuple[Band, ...] = ()


def quality_from_json(data: Mapping[str, Any]) -> Quality:
    """Back from what `dataclasses.asdict` made of it."""
    return Quality(**{**data, "bands": tuple(Band(**band) for band in data.get("bands", ()))})


@dataclass(slots=True)
class _Sum:
    logprob: float = 0.0
    bytes: int = 0

    @property
    def bits_per_byte(self) -> float:
        return -self.logprob / log(2) / self.bytes


class _Judge:
    """A model that is asked."""

    def __init__(self, session: aiohttp.ClientSession, target: str, model: str, access: Access) -> None:
        self._session, self._model = session, model
        self._url = target.rstrip("/").removesuffix("/v1")
        self._secure = access.context() if target.startswith("https://") else True

    async def passages(self, count: int) -> Quality:
        """Of the first `count` passages that ship with Dyno."""
        found = _Sum()
        for text in passages()[:count]:
            _, told = await self._scores(text)
            found.logprob += sum(n for n in told["token_logprobs"][1:] if n is not None)
            found.bytes += len(text.encode()) - len(told["tokens"][0].encode())
        return Quality(found.bits_per_byte, found.bytes, count)

    async def bands(self, bounds: Sequence[int]) -> tuple[Band, ...]:
        """Of the same texts, at positions up to the first bound, and from each to the next."""
        edges = list(pairwise((1, *bounds)))
        found = [_Sum() for _ in edges]
        for number in range(LONG_TEXTS):
            ids = await self._ids(number, bounds[-1])
            text, told = await self._scores(ids)
            places = told["text_offset"]  # where a text can be cut: a character may be of several tokens
            for one, (start, stop) in zip(found, edges, strict=True):
                end = places[stop] if stop < len(places) else None
                one.logprob += sum(told["token_logprobs"][start:stop])
                one.bytes += len(text[places[start] : end].encode())
        return tuple(Band(*edge, one.bits_per_byte) for one, edge in zip(found, edges, strict=True))

    async def _ids(self, number: int, length: int) -> list[int]:
        """The first tokens of a text that is long enough: passages one after another, from another one on each time."""
        texts, ids = passages(), list[int]()
        first = number * (len(texts) // LONG_TEXTS)
        for more in range(len(texts)):
            ids += (await self._post("tokenize", prompt=texts[(first + more) % len(texts)] + "\n\n"))["tokens"]
            if len(ids) >= length:
                break
        return ids[:length]

    async def _scores(self, prompt: str | list[int]) -> tuple[str, dict[str, Any]]:
        """The prompt as text, and what is told of its tokens."""
        body = {"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 0}
        choice = (await self._post("v1/completions", **body))["choices"][0]
        return choice["text"], choice["logprobs"]

    async def _post(self, path: str, **body: object) -> dict[str, Any]:
        body = {"model": self._model, **body}
        async with self._session.post(f"{self._url}/{path}", json=body, ssl=self._secure) as answer:
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            told: dict[str, Any] = await answer.json()
            return told


async def quality(
    target: str, model: str, count: int = PASSAGES, access: Access | None = None, bounds: Sequence[int] = ()
) -> Quality | None:
    """Of `count` passages, and of longer texts between the bounds, in tokens, where there are some. None from a server
    that cannot score them."""
    access = access or Access.from_environment()
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=access.headers) as session:
            judge = _Judge(session, target, model, access)
            found = await judge.passages(count)
            bands = await judge.bands(bounds) if bounds else ()
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return Quality(found.bits_per_byte, found.bytes, found.passages, bands)
