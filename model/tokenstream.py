"""Token ids to text, one by one, for every kind of tokenizer."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol


class TokenStream(Protocol):
    """Turns ids into text one by one; the pieces joined are the text of all ids."""

    def push(self, token: int) -> str:
        """The text that became complete with this id; "" while a character is still open."""
        ...

    def flush(self) -> str:
        """The text that is left at the end: U+FFFD for an unfinished character."""
        ...


class ByteStream:
    """TokenStream where every id is a piece of UTF-8: exact, whatever the cut."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._pieces[token])

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


class WindowStream:
    """TokenStream for any other decoder: decodes a short window and emits what has become stable.

    Decoders treat what comes first in a special way, mostly they take off its space. So the window always begins with
    an id that is out already and has text; only the first window is the beginning of the text itself.
    """

    LONGEST_CHARACTER = 4  # byte tokens
    LONGEST = 64  # ids that a window keeps while none of them has text of its own

    def __init__(self, decode: Callable[[Sequence[int]], str], shows: Callable[[int], bool]) -> None:
        """shows: whether an id leaves a trace in a text; special tokens do not, and are passed over."""
        self._decode, self._shows = decode, shows
        self._out: list[int] = []  # ids of the window whose text is out
        self._before = ""  # that text
        self._held: list[int] = []

    @property
    def held(self) -> int:
        """How many of the last ids with text wait for the rest of a character."""
        return len(self._held)

    def push(self, token: int) -> str:
        if not self._shows(token):
            return ""
        self._held.append(token)
        after = self._decode(self._out + self._held)
        if after.endswith("�") and len(self._held) < self.LONGEST_CHARACTER:
            return ""
        return self._emit(after)

    def flush(self) -> str:
        return self._emit(self._decode(self._out + self._held))

    def _emit(self, after: str) -> str:
        text = after[len(self._before) :]
        alone = self._decode(self._held)
        if alone or len(self._out) >= self.LONGEST:
            self._out, self._before = self._held, alone
        else:
            self._out, self._before = self._out + self._held, after
        self._held = []
        return text
