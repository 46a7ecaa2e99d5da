"""Without a GPU Triton interprets the kernels; it asks again wherever it loads more of itself."""

from __future__ import annotations

import pytest

from tests.model.gpu import ON_GPU


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ON_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
