"""What the next step is to compute, while that is being worked out. No torch here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from server.engine.entry import Entry


@dataclass(slots=True, eq=False)
class Plan:
    """Of one step: who computes how many tokens, who guesses what beside them, and who lost its blocks for it."""

    left: int  # tokens of the step that nobody has yet
    chunk_left: int = sys.maxsize  # most of these that those may have who need several
    tokens: dict[Entry, int] = field(default_factory=dict)
    drafts: dict[Entry, tuple[int, ...]] = field(default_factory=dict)
    preempted: list[Entry] = field(default_factory=list)
    short: bool = False  # of blocks, for the head of the queue
    reads: bool = False  # a source

    @property
    def room(self) -> int:
        """The tokens that are left for requests that need several."""
        return max(0, min(self.left, self.chunk_left))

    def bound(self, chunk: int | None) -> None:
        """Beside those that have a token by now the others have `chunk` in all; None: no bound."""
        if chunk is not None and self.tokens:
            self.chunk_left = chunk

    def give(self, entry: Entry, count: int) -> None:
        """So many tokens more to a request."""
        self.tokens[entry] = self.tokens.get(entry, 0) + count
        self.left -= count
        self.chunk_left -= count

    def takes(self, source: int) -> bool:
        """Whether a source of so many tokens can be read as well. It is read whole, so the first of a step needs no
        room: one that is longer than a step would never be read."""
        return not (source and self.reads) or source < self.room

    def read(self, source: int) -> None:
        """A source of so many tokens, none where a model has no encoder."""
        self.reads = self.reads or source > 0
        self.left -= source
        self.chunk_left -= source

    def guess(self, entry: Entry, drafts: tuple[int, ...]) -> None:
        """What may follow the token that a request has."""
        self.drafts[entry] = drafts
        self.left -= len(drafts)

    def withdraw(self, entry: Entry) -> None:
        """A request has lost its blocks, and what it was given is left again."""
        self.left += self.tokens.pop(entry, 0)
        self.preempted.append(entry)
