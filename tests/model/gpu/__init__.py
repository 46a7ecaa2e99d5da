"""Kernels for GPUs. Without a GPU Triton interprets them on the processor, where it can only float32."""

from __future__ import annotations

import importlib.util

import pytest
import torch

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
TYPES = [torch.float32, torch.bfloat16] if ON_GPU else [torch.float32]
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton", allow_module_level=True)
with pytest.MonkeyPatch.context() as _patch:
    if not ON_GPU:
        _patch.setenv("TRITON_INTERPRET", "1")  # read where a kernel is defined
    from model.kernels.gpu import attention, blocks, experts, linear, turn  # noqa: F401


def draw(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape) * scale).to(DEVICE, dtype)


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether they are as close as rounding allows, against the largest number."""
    tolerance = TOLERANCES[found.dtype] * float(expected.abs().max().clamp(min=1.0))
    return bool((found.float() - expected.float()).abs().max() <= tolerance)
