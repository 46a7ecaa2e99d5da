from __future__ import annotations

import pytest

from client.compare.measure import bench


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes have no threads that spin."""
    monkeypatch.setattr(bench, "REST", 0.0)
