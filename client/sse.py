"""Server-sent events: bytes in, payloads out. Kept tight: a load test pays for this on every token."""

from __future__ import annotations


class EventParser:
    """Splits a byte stream into the `data` payloads of its events; comments and other fields are skipped.

    Works on bytes because a chunk may end inside a character, and because only CR and LF end a line here.
    """

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the events that `chunk` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        return events
