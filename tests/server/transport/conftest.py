from __future__ import annotations

import pytest

from server.transport import reloading


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that have changed are read again at once."""
    monkeypatch.setattr(reloading, "PERIOD", 0.05)
