"""A request in the scheduler's hands. No torch here."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from server.engine.account import Account
from server.engine.drafting import Drafting
from server.engine.holding import Holding
from server.engine.request import Request
from server.engine.step import Row

PRIORITY_SECONDS = 0.1
"""What one step of priority is worth. A request of low priority stands behind later ones of high priority, but only
behind those that come within this time: none waits for ever, however many of high priority there are."""


@dataclass(slots=True, eq=False)
class Entry:
    """A request under way, the blocks it holds and the facts about it."""

    request: Request
    holding: Holding
    account: Account
    running: bool = False
    drafting: Drafting | None = None
    queued: float = 0.0  # when it came, in seconds
    number: int = field(default_factory=itertools.count().__next__)  # of those that came at the same time, which

    @property
    def tenant(self) -> bytes:
        """Requests share prefixes, and have priorities, among those of the same tenant."""
        return self.request.cache_salt

    @property
    def turn(self) -> float:
        """Whose turn it is among those of a tenant goes by this."""
        return self.queued + PRIORITY_SECONDS * self.request.priority

    @property
    def awaits(self) -> bool:
        """Whether what it may say next is still to be found out."""
        constraint = self.request.constraint
        return constraint is not None and constraint.awaits

    def look_ahead(self) -> None:
        """Have it found out what may be said next, while the engine does other things."""
        if self.request.constraint is not None:
            self.request.constraint.look_ahead()

    def judge(self, drafted: int, accepted: int) -> None:
        """So many tokens were guessed for the request in a step, and so many of them were right."""
        self.account.drafted_tokens += drafted
        self.account.accepted_tokens += accepted
        if self.drafting is not None:
            self.drafting.judge(accepted)


class Seat(NamedTuple):
    """One request's place in a step."""

    entry: Entry
    row: Row

    @property
    def undrafted(self) -> Seat:
        """The same without guesses."""
        row = self.row
        return Seat(self.entry, row._replace(count=row.count - len(row.drafts), drafts=()))


def in_order(entries: list[Entry]) -> list[Entry]:
    """The same places, those of a tenant filled by whose turn it is: nobody's priority moves anybody of another tenant.

    a let in first, b second, a' of a's tenant third, with priority    →    a' b a
    """
    lines: dict[bytes, deque[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.turn, entry.number)):
        lines.setdefault(entry.tenant, deque()).append(entry)
    return [lines[entry.tenant].popleft() for entry in entries]
