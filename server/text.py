"""Stop strings: found token by token on the engine's side, and kept out of the text on the service's side.

Both sides read the same tokens through the same `StopText`, so they agree on where a generation ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.tokenstream import TokenStream


class StopText:
    """Lets text through up to the first stop string.

    What could be the beginning of a stop string is held back until it is decided: with stop "END", "the E" comes out as
    "the " and the E waits; "Earl" then gives "EEarl", "ND" ends the text.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        """`include`: the stop string itself is let through."""
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that may be shown; "" for ever after a stop string was found."""
        if self.found:
            return ""
        text = self._held + text
        found = [(start, start + len(stop)) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.found, self._held = True, ""
            start, end = min(found)
            return text[: end if self._include else start]
        keep = len(text) - self._undecided(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class VisibleText:
    """Tokens of one choice to text that may be shown: whole characters, and nothing of a stop string.

    Text of the first `free` tokens (min_tokens) is let through unread: no stop string counts there. `include`: the stop
    string is shown.
    """

    def __init__(self, stream: TokenStream, stops: Sequence[str] = (), free: int = 0, include: bool = False) -> None:
        self._stream = stream
        self._stop = StopText(stops, include) if stops else None
        self._free = free

    @property
    def stopped(self) -> bool:
        return self._stop is not None and self._stop.found

    def push(self, token: int) -> str:
        text = self._stream.push(token)
        if self._stop is None:
            return text
        if self._free > 0:
            self._free -= 1
            return text
        return self._stop.push(text)

    def flush(self) -> str:
        """The end of the text when no more tokens come."""
        rest = self._stream.flush()
        if self._stop is None:
            return rest
        return self._stop.push(rest) + self._stop.flush()


class StopString:
    """The engine's StopCondition: says at which token a stop string is complete."""

    def __init__(self, stream: TokenStream, stops: Sequence[str], free: int = 0) -> None:
        self._text = VisibleText(stream, stops, free)

    def push(self, token: int) -> bool:
        self._text.push(token)
        return self._text.stopped
