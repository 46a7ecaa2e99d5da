"""Giving memory back once nobody holds a model any more."""

from __future__ import annotations

import contextlib
import ctypes
import gc

import torch


def release() -> None:
    """Collect what only holds itself, then hand the allocators' free memory to the system and the device."""
    gc.unfreeze()  # what stood since the start may be what is to go
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # not every C library can
        ctypes.CDLL(None).malloc_trim(0)
