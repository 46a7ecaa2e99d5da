"""Triton kernels for CUDA GPUs. Only where `usable` says so may other modules of this folder be imported: they need
Triton, which PyTorch for CUDA brings where it runs and PyTorch for processors does not."""

from __future__ import annotations

import functools
import importlib.util

from torch import Tensor

FEW = 64  # tokens that blocks' own kernels take: with more, arithmetic binds and the library's products are faster


def usable(x: Tensor) -> bool:
    """Whether a tensor lies on a GPU that kernels can be built for."""
    return x.is_cuda and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
