from __future__ import annotations

import pytest
import torch

from model.kernels import native

torch.set_num_threads(1)


@pytest.fixture(params=["compiled", "plain"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve with the compiled kernel, and with what takes its place where there is no compiler."""
    if request.param == "plain":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("no compiler here")
    return str(request.param)
