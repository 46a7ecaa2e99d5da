"""Files that are read again: when they have changed in any way, and again where that failed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.transport.auth.keys import ApiKey, read_keys
from server.transport.reloading import Reloaded
from tests.server.doors import write_keys


class Kept:
    """The keys of a file as a server keeps them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = read_keys(path)
        self.faults: list[OSError] = []  # of the next reads
        self.reloaded = Reloaded("API keys", (path,), self._load)

    def names(self) -> list[str]:
        self.reloaded.look()
        return [key.name for key in self.keys]

    def _load(self) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.keys: tuple[ApiKey, ...] = read_keys(self.path)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(write_keys(tmp_path / "keys.toml", "alice"))


def test_what_failed_because_of_its_mode_is_read_after_a_chmod(kept: Kept) -> None:
    write_keys(kept.path, "alice", "bob")
    kept.path.chmod(0o644)
    with capture_logs() as logs:
        assert [kept.names() for _ in range(3)] == [["alice"]] * 3
    assert [(line["log_level"], "chmod" in line["why"]) for line in logs] == [("warning", True)], "once"
    kept.path.chmod(0o600)
    assert kept.names() == ["alice", "bob"]


def test_a_chmod_alone_is_a_change(kept: Kept) -> None:
    time.sleep(0.02)  # a tick of the file system's clock
    kept.path.chmod(0o644)
    with capture_logs() as logs:
        kept.names()
    assert [line["log_level"] for line in logs] == ["warning"]


def test_what_could_not_be_read_at_first_is_read_later(kept: Kept) -> None:
    write_keys(kept.path, "bob")
    full = OSError(24, "Too many open files")
    kept.faults = [full, full, OSError(5, "Input/output error")]
    with capture_logs() as logs:
        assert [kept.names() for _ in range(5)] == [["alice"]] * 3 + [["bob"]] * 2
    assert [line["log_level"] for line in logs] == ["warning", "warning", "info"], "each reason once, and the success"
