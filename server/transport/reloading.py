"""Files that change while the server runs: certificates and keys are exchanged without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import structlog

log = structlog.get_logger()

PERIOD = 1.0  # seconds; a key that is taken out of its file is refused that much later

FileStamp: TypeAlias = tuple[int, int, int, int]
Stamp: TypeAlias = tuple[FileStamp | None, ...]


class Reloaded:
    """Files and what is to be done when one of them is another: `load`, which raises when it cannot."""

    def __init__(self, what: str, paths: Sequence[Path], load: Callable[[], None]) -> None:
        """`what`: in the log."""
        self._what = what
        self._paths = paths
        self._load = load
        self._loaded = _stamp(paths)
        self._told: tuple[Stamp, str] | None = None  # of what could not be loaded

    def look(self) -> None:
        """Load when something has changed. What cannot be loaded is logged once and tried again with each look, as what
        was in the way may not be in the files; what was there stays."""
        stamp = _stamp(self._paths)
        if stamp == self._loaded:
            return
        try:
            self._load()
        except Exception as error:
            self._complain(stamp, str(error))
            return
        self._loaded, self._told = stamp, None
        if _stamp(self._paths) == stamp:  # else they changed while they were read, and the next look reads them again
            log.info("reloaded", what=self._what)

    def _complain(self, stamp: Stamp, why: str) -> None:
        if self._told != (stamp, why):
            self._told = stamp, why
            log.warning("not reloaded: the old ones stay", what=self._what, why=why)


async def keep_reloading(reloaded: Sequence[Reloaded]) -> None:
    """Look at all of them until cancelled."""
    while True:
        await asyncio.sleep(PERIOD)
        for one in reloaded:
            one.look()


def _stamp(paths: Sequence[Path]) -> Stamp:
    """Changes with the content, with who may read it, and when a link is turned to another file."""
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> FileStamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
