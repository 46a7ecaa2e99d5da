"""Scrapes of the metrics: written beside the event loop, because they can be megabytes, and once for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

Scrape: TypeAlias = Callable[[str], tuple[Callable[[], bytes], str]]
"""Accept header → what writes the exposition, and its content type."""


class Scrapes:
    """Answers many at once with few expositions, none of which began before it was asked for."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._turn = asyncio.Lock()
        self._next: dict[str, asyncio.Task[bytes]] = {}  # by content type, those that have not begun

    async def answer(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type."""
        write, kind = self._scrape(accept)
        if kind not in self._next:
            self._next[kind] = asyncio.create_task(self._written(write, kind))
        return await asyncio.shield(self._next[kind]), kind

    async def _written(self, write: Callable[[], bytes], kind: str) -> bytes:
        async with self._turn:
            del self._next[kind]  # who asks from now on gets the one after this
            return await asyncio.to_thread(write)
