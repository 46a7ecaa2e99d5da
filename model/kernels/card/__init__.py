"""Triton kernels for CUDA cards. Only what `usable` says yes to may be handed to the modules of this folder, which import
Triton: PyTorch for CUDA brings it where it runs, PyTorch for processors does not."""

from __future__ import annotations

import functools
import importlib.util

from torch import Tensor


def usable(x: Tensor) -> bool:
    """Whether a tensor lies on a card that kernels can be built for."""
    return x.is_cuda and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
