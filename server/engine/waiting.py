"""Who waits for a place in the batch: a line for each tenant, and the tenants take turns. No torch here."""

from __future__ import annotations

from bisect import insort_left, insort_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Iterates in the order in which those who wait are to be let in.

    Within a line the earliest turn is first. The tenant that was let in last stands behind the others, so that who has
    one request waits for one of each other tenant at most, however many these have:

        a: 1 2 3 4    b: 5 6    →    1 5 2 6 3 4
    """

    def __init__(self, owner: Callable[[T], bytes], turn: Callable[[T], float]) -> None:
        self._owner = owner
        self._turn = turn
        self._lines: dict[bytes, deque[T]] = {}  # none is empty; whose turn it is stands first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for rank in zip_longest(*self._lines.values()):
            yield from (one for one in rank if one is not None)

    @property
    def lines(self) -> list[list[T]]:
        return [list(line) for line in self._lines.values()]

    def add(self, one: T) -> None:
        """Behind those of its tenant whose turn is as early."""
        insort_right(self._lines.setdefault(self._owner(one), deque()), one, key=self._turn)
        self._count += 1

    def put_back(self, one: T) -> None:
        """It was let in already: before those of its tenant whose turn is as early, its tenant before the others."""
        line = self._lines.pop(self._owner(one), None) or deque()
        insort_left(line, one, key=self._turn)
        self._lines = {self._owner(one): line, **self._lines}
        self._count += 1

    def remove(self, one: T) -> None:
        """It waits no more, and nobody's turn changes."""
        line = self._lines[self._owner(one)]
        line.remove(one)
        self._count -= 1
        if not line:
            del self._lines[self._owner(one)]

    def let_in(self, one: T) -> None:
        """It waits no more, and the next to be let in is another tenant's."""
        owner = self._owner(one)
        self.remove(one)
        if owner in self._lines:
            self._lines[owner] = self._lines.pop(owner)
