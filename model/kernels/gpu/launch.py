"""What every Triton kernel of this folder has in common: how it starts beside the one before, and how it is launched.

A step of few tokens is a chain of short kernels, and a GPU spends as long between them as in them. On GPUs that can
(Hopper and later) a kernel is let in while the one before still runs, asks for its first weights, and then waits.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

OVERLAPPING = 9  # compute capability from which kernels overlap
LEAST = 16  # rows and columns of the smallest tile that tensor cores multiply
SHARED, RESERVED = 227 << 10, 8 << 10  # bytes of shared memory of an H100, and what is kept back of any GPU's
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # on the processor, for tests


@triton.jit
def let_in(EARLY: tl.constexpr):
    """Let the next kernel start as soon as all programs of this one have started."""
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def wait(EARLY: tl.constexpr):
    """Wait until what earlier kernels wrote can be read; before that only weights and a step's inputs may be. At least
    one program of every kernel has to wait, or later kernels would no longer know of earlier ones."""
    if EARLY:
        gdc_wait()


@functools.cache
def overlaps(index: int) -> bool:
    """Whether kernels overlap on a GPU."""
    return not INTERPRETED and torch.cuda.get_device_capability(index)[0] >= OVERLAPPING


def shared_bytes(x: Tensor) -> int:
    """What tiles of one program can take of the memory of a multiprocessor where x lies; a little is the compiler's."""
    return (_shared_bytes(x.device.index) if x.is_cuda else SHARED) - RESERVED


@functools.cache
def _shared_bytes(index: int) -> int:
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


def early(x: Tensor) -> dict[str, Any]:
    """The launch arguments of a kernel that reads x: EARLY and what the driver is told of it."""
    if not x.is_cuda or not overlaps(x.device.index):
        return {"EARLY": False}
    return {"EARLY": True, "launch_pdl": True}


def tile(count: int) -> int:
    """The side of a tile that holds `count` rows: a power of two that tensor cores take."""
    side: int = triton.next_power_of_2(count)
    return max(LEAST, side)
