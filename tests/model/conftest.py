from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch

from model.kernels import native

torch.set_num_threads(1)
if not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
    with pytest.MonkeyPatch.context() as _patch:
        _patch.setenv("TRITON_INTERPRET", "1")  # read where Triton's own functions are defined, whoever loads it first
        importlib.import_module("triton.language")


@pytest.fixture(params=["compiled", "plain"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve with the compiled kernel, and with what takes its place where there is no compiler."""
    if request.param == "plain":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("no compiler here")
    return str(request.param)
