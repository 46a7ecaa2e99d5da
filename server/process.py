"""What the interpreter and the allocator of a serving process are told, so that its two threads and its memory do not
get in each other's way. Measured by `python -m tests.bench.step_overhead --against tuning=off`."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

SWITCH_SECONDS = 0.0005
"""How long the engine and the event loop may keep each other from the interpreter. Every operation of torch lets go of
it and takes it back: with the usual 5 ms a step waits that long wherever the other one is busy."""

YOUNG_OBJECTS = 50_000
"""So many more objects than before make the collector look through the new ones; usually 700, several times a step."""

KEPT_BYTES = 256 << 20
"""Freed memory that is kept for the next step. Given back to the system, it costs a page fault for every 4 KiB to get
it again: 2 ms for the few megabytes of logits that 32 draws take."""

MAPPED_BYTES = 32 << 20
"""Blocks from this size on are the system's at once; the most that the C library takes."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def tune() -> None:
    """Once, before anything else runs."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(YOUNG_OBJECTS)
    with contextlib.suppress(AttributeError, OSError):  # a C library without it has its own ways
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        library.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)


def settle() -> None:
    """Once, when everything is loaded: what is here stays, and the collector need not look through it again."""
    gc.collect()
    gc.freeze()
