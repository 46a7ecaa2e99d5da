"""A line in the log for each call that was answered: who asked, what, and the code of the answer. Nothing of what was
written, and no key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

BURST, LINES_A_SECOND = 50.0, 1.0
"""Lines at once, and in the long run, of callers with a key and of all others: whoever is refused again and again does
not fill a disk, and nobody without a key hides what happens to those who have one."""
TOLD = {"401", "403", "429", "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}
TOLD |= {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN"}  # and 5xx
PROBES = {"/livez", "/readyz", "/health", "/ready"}  # that ask all the time, and expect to be told no


@dataclass(frozen=True, slots=True)
class Who:
    """Whose call it was, as far as that is known. `id`: ours; `given_id`: its caller's, where that is a plain one."""

    id: str | None = None
    given_id: str | None = None
    tenant: str = ""
    peer: str | None = None


NOBODY = Who()


class _Room:
    """For so many lines."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines, self._since = BURST, clock()
        self.left_out = 0

    def take(self) -> bool:
        """Whether there is room for a line; if not, it is counted."""
        now = self._clock()
        self._lines = min(BURST, self._lines + (now - self._since) * LINES_A_SECOND)
        self._since = now
        if self._lines < 1:
            self.left_out += 1
            return False
        self._lines -= 1
        return True


class CallLog:
    """Belongs to the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known, self._unknown = _Room(clock), _Room(clock)

    def tell(self, transport: str, method: str, code: str, who: Who) -> None:
        """For operators where it was refused or failed, as far as there is room for that; else for debugging."""
        facts = {"transport": transport, "method": method, "code": code, "id": who.id, "given_id": who.given_id}
        facts |= {"tenant": who.tenant or None, "peer": who.peer}
        facts = {name: value for name, value in facts.items() if value is not None}
        if method in PROBES or not (code in TOLD or code.startswith("5")):
            log.debug("answered", **facts)
            return
        room = self._known if who.tenant else self._unknown
        if room.take():
            left_out, room.left_out = room.left_out, 0
            log.info("not answered", **facts, **({"left_out": left_out} if left_out else {}))
