"""What the log looks like, whoever writes it."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog

from server import logs


def test_a_record_of_a_library_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    root, level, settings = logging.getLogger(), logging.getLogger().level, structlog.get_config()
    handlers = root.handlers[:]
    try:
        logs.configure("info")
        logging.getLogger("some.library").warning("odd %s", "thing")
        structlog.get_logger().info("ready", models=["a"])
    finally:
        structlog.configure(**settings)
        root.handlers[:], root.level = handlers, level
    library, own = map(json.loads, told.getvalue().splitlines())
    assert library.keys() == {"event", "level", "timestamp"} and library["event"] == "odd thing"
    assert own.keys() == {"event", "level", "timestamp", "models"}
