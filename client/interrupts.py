"""Ctrl-C and SIGTERM for programs that have something to clean up or to keep."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from client import loop

_T = TypeVar("_T")


class Interrupted(Exception):
    """The user ended the program before it was done; everything it started has been stopped. Its text says so."""


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """loop.run in which SIGTERM, like Ctrl-C, cancels `main` and lets it clean up. Raises Interrupted then."""
    try:
        return loop.run(_cancellable(main))
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        raise Interrupted("interrupted") from error


async def _cancellable(main: Coroutine[Any, Any, _T]) -> _T:
    _on_signals(_cancel_current())
    return await main


@contextmanager
def gently() -> Iterator[asyncio.Event]:
    """Within, the first signal sets the event instead of cancelling, so that what was done so far can be kept."""
    stop, cancel = asyncio.Event(), _cancel_current()

    def first() -> None:
        stop.set()
        _on_signals(cancel)

    _on_signals(first)
    try:
        yield stop
    finally:
        _on_signals(cancel)


def _cancel_current() -> Callable[[], object]:
    task = asyncio.current_task()
    assert task is not None
    return task.cancel


def _on_signals(action: Callable[[], object]) -> None:
    running = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        running.add_signal_handler(number, action)
