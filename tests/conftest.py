"""What holds for every test."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import NoReturn

import pytest


def _refuse(*_: object) -> NoReturn:
    raise AssertionError("this test would replace the test run by another program")


def pytest_collection_finish() -> None:
    """What thousands of tests are made of stays to the end; half a second each time that the collector looks at it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def what_is_collected_stays_frozen() -> Iterator[None]:
    """A model that is unloaded was made after it; so unloading finds all that it shall."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_replaces_the_test_run() -> Iterator[None]:
    """A command that becomes another program would end the run there, with the exit code of that program."""
    with pytest.MonkeyPatch.context() as patch:
        for call in ("execv", "execve", "execvp", "execvpe"):
            patch.setattr(os, call, _refuse)
        yield
