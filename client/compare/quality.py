"""How well a model knows text that no zoo model was trained on: bits per byte, less is better."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import aiohttp

from client.access import Access
from client.load.prompts import passages

PASSAGES = 12
_TIMEOUT = aiohttp.ClientTimeout(total=120)


@dataclass(frozen=True, slots=True)
class Quality:
    """Over some held passages; the first token of each has nothing before it and is left out with its bytes."""

    bits_per_byte: float
    bytes: int
    passages: int


async def quality(target: str, model: str, count: int = PASSAGES, access: Access | None = None) -> Quality | None:
    """Of the first `count` passages that ship with Dyno. None from a server that cannot score them."""
    access = access or Access.from_environment()
    logprob, size = 0.0, 0
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=access.headers) as session:
            for text in passages()[:count]:
                told, counted = await _score(session, target, model, text, access)
                logprob, size = logprob + told, size + counted
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError, IndexError):
        return None
    return Quality(-logprob / log(2) / size, size, count) if size else None


async def _score(
    session: aiohttp.ClientSession, target: str, model: str, text: str, access: Access
) -> tuple[float, int]:
    """(log-probability, bytes) of a text after its first token."""
    body = {"model": model, "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0}
    secure = access.context() if target.startswith("https://") else True
    async with session.post(
        f"{target.rstrip('/').removesuffix('/v1')}/v1/completions", json=body, ssl=secure
    ) as answer:
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        told = (await answer.json())["choices"][0]["logprobs"]
    numbers = told["token_logprobs"]
    first = len(told["tokens"][0].encode())
    return sum(n for n in numbers[1:] if n is not None), len(text.encode()) - first
