"""Whether the engine thread has been at one thing for longer than it may be, and what is told of that."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger(__name__)


class Standstill:
    """Told by the engine thread what it does; asked from any, and to `tell` from one."""

    def __init__(self) -> None:
        self.limit = 0.0  # seconds, of what is done now
        self._what = ""
        self._began: float | None = None
        self._told: float | None = None  # when the one that was told of last had begun

    @contextlib.contextmanager
    def watched(self, what: str, limit: float) -> Iterator[None]:
        """What is done inside is taken for standing still when it takes longer than so many seconds."""
        began = time.monotonic()
        self._what, self.limit, self._began = what, limit, began
        try:
            yield
        finally:
            self._began = None
            if self._told == began:
                log.warning("the engine moves again: %s took %.1f s", what, time.monotonic() - began)

    def __bool__(self) -> bool:
        began = self._began
        return began is not None and time.monotonic() - began > self.limit

    def tell(self, requests: int) -> None:
        """Log, once for each time that it stands still, what that is about and that so many requests fail."""
        began = self._began
        if began is not None and began != self._told:
            self._told = began
            text = "the engine stands still: %s takes longer than %g s; %d requests fail"
            log.critical(text, self._what, self.limit, requests)
