"""Prompts that a server has not seen before, at the same lengths: so that its prefix cache does not answer for an
earlier run, or for the same requests over another transport. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.load.trace import TraceRow

_TOKENS = 4  # of each prompt, the first: a prefix that differs there is another one


@dataclass(frozen=True, slots=True)
class Salt:
    """`word` is any text; `vocab` the number of ids that a token may be moved among."""

    word: str
    vocab: int

    def on(self, row: TraceRow) -> TraceRow:
        """The row with its first tokens moved, all rows' alike: prompts that had a beginning in common still have.
        A text gets the word before it, which makes it a few tokens longer."""
        if isinstance(row.prompt, str):
            return replace(row, prompt=f"{self.word} {row.prompt}")
        moved = (
            (token + shift) % self.vocab if token < self.vocab else token
            for token, shift in zip(row.prompt, self._shifts(), strict=False)
        )
        return replace(row, prompt=(*moved, *row.prompt[_TOKENS:]))

    def _shifts(self) -> Sequence[int]:
        digest = hashlib.sha256(self.word.encode()).digest()
        return [int.from_bytes(digest[i * 8 : i * 8 + 8]) % self.vocab for i in range(_TOKENS)]
