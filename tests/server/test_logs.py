"""What the log looks like, whoever writes it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from server import logs


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[TextIO], None]]:
    """configured(file): from now on the log goes there, until the end of the test."""
    root, level, settings = logging.getLogger(), logging.getLogger().level, structlog.get_config()
    handlers = root.handlers[:]

    def configure(file: TextIO) -> None:
        monkeypatch.setattr(sys, "stderr", file)
        logs.configure("info")

    yield configure
    structlog.configure(**settings)
    root.handlers[:], root.level = handlers, level


def test_a_record_of_a_library_is_one_of_ours(configured: Callable[[TextIO], None]) -> None:
    told = io.StringIO()
    configured(told)
    logging.getLogger("some.library").warning("odd %s", "thing")
    structlog.get_logger().info("ready", models=["a"])
    library, own = map(json.loads, told.getvalue().splitlines())
    assert library.keys() == {"event", "level", "timestamp"} and library["event"] == "odd thing"
    assert own.keys() == {"event", "level", "timestamp", "models"}


def test_a_line_that_cannot_be_written_is_lost_and_no_more(configured: Callable[[TextIO], None]) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115
    configured(full)
    logging.getLogger("some.library").warning("odd %s", "thing")
    structlog.get_logger().warning("ready")
    with pytest.raises(OSError, match="No space"):  # it still holds them
        full.close()
    structlog.get_logger().error("it is closed")
