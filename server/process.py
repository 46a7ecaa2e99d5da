"""What the interpreter of a serving process is told, so that its two threads and its collector do not hold up a step.
Measured by `python -m tests.bench.step_overhead --against tuning=off`."""

from __future__ import annotations

import gc
import sys

SWITCH_SECONDS = 0.0005
"""How long the engine and the event loop may keep each other from the interpreter. Every operation of torch lets go of
it and takes it back: with the usual 5 ms a step waits that long wherever the other one is busy."""

YOUNG_OBJECTS = 50_000
"""So many more objects than before make the collector look through the new ones; usually 700, several times a step."""


def tune() -> None:
    """Once, before anything else runs."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(YOUNG_OBJECTS)


def settle() -> None:
    """Once, when everything is loaded: what is here stays, and the collector need not look through it again."""
    gc.collect()
    gc.freeze()
