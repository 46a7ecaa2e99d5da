"""One thread that works out what answers may say next, and what each call may take of its time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from typing import Any, TypeVar

from server.engine.constraint import ConstraintFailed

T = TypeVar("T")

LONGEST_SET = 5.0  # seconds of the clock for one set of tokens; the library's own bounds end it after hundredths
TOO_SLOW = "it takes too long to follow"


class Allowance:
    """The time that the sets of tokens of one call, all its choices together, have taken and may take.

    A set that takes less than `free` seconds is not counted, of others what they take longer; only what the processor
    was busy with, so that a busy machine is not held against a caller.
    """

    def __init__(self, free: float, seconds: float) -> None:
        self._free, self._seconds = free, seconds
        self.spent = 0.0
        self.was_slow = False  # whether the last set was not free; for the follower's thread
        self._began: float | None = None

    @property
    def exceeded(self) -> bool:
        """From any thread."""
        began = self._began
        return self.spent > self._seconds or (began is not None and time.monotonic() - began > LONGEST_SET)

    def measured(self, work: Callable[[], T], *, counted: bool = True) -> T:
        """What `work` gives. Raises ConstraintFailed when too much has been spent already."""
        if self.exceeded:
            raise ConstraintFailed(TOO_SLOW)
        self._began, before = time.monotonic(), time.thread_time()
        try:
            return work()
        finally:
            excess, self._began = time.thread_time() - before - self._free, None
            self.was_slow = excess > 0
            self.spent += excess if counted and self.was_slow else 0.0


class Follower:
    """Works in turn; of those who wait, the one whose call has taken the least time so far comes first."""

    def __init__(self, stack_bytes: int) -> None:
        self._numbers = count()
        self._waiting: queue.PriorityQueue[tuple[float, int, Future[Any] | None, Callable[[], Any] | None]]
        self._waiting = queue.PriorityQueue()
        before = threading.stack_size(stack_bytes)
        try:
            self._thread = threading.Thread(target=self._work, name="follow", daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(before)

    def submit(self, allowance: Allowance, work: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        self._waiting.put((allowance.spent, next(self._numbers), done, work))
        return done

    def close(self) -> None:
        """End the thread; what still waits is not done."""
        self._waiting.put((-1.0, next(self._numbers), None, None))
        self._thread.join(LONGEST_SET)

    def _work(self) -> None:
        while True:
            *_, done, work = self._waiting.get()
            if done is None or work is None:
                return
            if not done.set_running_or_notify_cancel():
                continue
            try:
                done.set_result(work())
            except BaseException as fault:  # whoever waits must hear of it
                done.set_exception(fault)
