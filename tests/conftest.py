"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest


def _refuse(*_: object) -> NoReturn:
    raise AssertionError("this test would replace the test run by another program")


@pytest.fixture(scope="session", autouse=True)
def nothing_replaces_the_test_run() -> Iterator[None]:
    """A command that becomes another program would end the run there, with the exit code of that program."""
    with pytest.MonkeyPatch.context() as patch:
        for call in ("execv", "execve", "execvp", "execvpe"):
            patch.setattr(os, call, _refuse)
        yield
