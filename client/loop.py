"""The event loop that a client runs on."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Runner
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def factory() -> Callable[[], AbstractEventLoop] | None:
    """What makes it: uvloop where it is installed, which leaves more of a shared machine to the server; None is
    asyncio's own. A timer of uvloop may ring a millisecond early: whoever must not be early asks the clock again."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # not for every system, and asyncio does the same more slowly
        return None
    return new_event_loop


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """asyncio.run on such a loop."""
    with Runner(loop_factory=factory()) as runner:
        return runner.run(main)
