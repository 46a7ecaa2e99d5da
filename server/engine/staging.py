"""Between host and GPU: the tensors of a step go down in one copy, what came of them comes up behind one wait.

A tree is a tensor, None, or a tuple or frozen dataclass of trees; whatever else a dataclass holds stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")
ALIGNED = 16  # bytes; vector loads want it, and no type needs more


class Board(Generic[Tree]):
    """Memory for a tree of one shape: its tensors lie behind each other on the host, pinned where the device is a GPU,
    and in the same order on the device. `host` and `tree` are the two; their tensors never move."""

    def __init__(self, example: Tree, device: torch.device) -> None:
        """example: shapes and types of the host's tensors; those that lie on the device already are left where they
        are."""
        self._device = device
        self._slices: list[tuple[int, int]] = []
        size = 0
        for tensor in self._down(example):
            self._slices.append((size, size + tensor.nbytes))
            size += -(-tensor.nbytes // ALIGNED) * ALIGNED
        self._host = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._there = torch.empty(size, dtype=torch.uint8, device=device)
        self.host, self.tree = self._over(self._host, example), self._over(self._there, example)
        self._views = list(self._down(self.host))

    def fill(self, tree: Tree) -> Tree:
        """Copy a tree of the same shape to the device, without waiting for it; returns the tree there."""
        for view, tensor in zip(self._views, self._down(tree), strict=True):
            view.copy_(tensor)
        return self.send()

    def send(self) -> Tree:
        """Copy what the host's tree holds now to the device, without waiting for it; returns the tree there."""
        self._there.copy_(self._host, non_blocking=True)
        return self.tree

    def _down(self, tree: Any) -> Iterator[Tensor]:
        return (tensor for tensor in leaves(tree) if not self._is_there(tensor))

    def _is_there(self, tensor: Tensor) -> bool:
        return self._device.type != "cpu" and tensor.device.type == self._device.type

    def _cut(self, memory: Tensor, example: Tree) -> list[Tensor]:
        pairs = zip(self._slices, self._down(example), strict=True)
        return [memory[begin:end].view(tensor.dtype).view(tensor.shape) for (begin, end), tensor in pairs]

    def _over(self, memory: Tensor, example: Tree) -> Tree:
        """The tree laid over one of both memories."""
        views = iter(self._cut(memory, example))
        tree: Tree = rebuilt(example, (t if self._is_there(t) else next(views) for t in leaves(example)))
        return tree


def place(tree: Tree, device: torch.device) -> Tree:
    """The tree on the device, in memory of its own."""
    return Board(tree, device).fill(tree)


def fetch(tree: Tree) -> Tree:
    """The tree on the host: every copy is asked for, then all are waited for at once. What is there is not copied."""
    gpus = {tensor.device for tensor in leaves(tree) if tensor.is_cuda}
    if not gpus:
        return tree
    found = [_asked(tensor) for tensor in leaves(tree)]
    for gpu in gpus:
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(gpu))
        done.synchronize()
    there: Tree = rebuilt(tree, iter(found))
    return there


def _asked(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree, in order."""
    match tree:
        case Tensor():
            yield tree
        case tuple():
            for part in tree:
                yield from leaves(part)
        case _ if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
            for field in dataclasses.fields(tree):
                yield from leaves(getattr(tree, field.name))


def rebuilt(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """The same tree with other tensors, taken in order."""
    match tree:
        case Tensor():
            return next(tensors)
        case tuple():
            return tuple([rebuilt(part, tensors) for part in tree])
        case _ if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
            parts = {f.name: rebuilt(getattr(tree, f.name), tensors) for f in dataclasses.fields(tree)}
            return dataclasses.replace(tree, **parts)
    return tree


def is_fatal(fault: RuntimeError) -> bool:
    """Whether nothing can be run on the GPU after this. Memory that ran out comes back, when a smaller step is run."""
    if isinstance(fault, torch.OutOfMemoryError):
        return False
    told = str(fault)
    if isinstance(fault, torch.AcceleratorError) or told.startswith("CUDA error"):
        return "ALLOC_FAILED" not in told and "out of memory" not in told
    return "CUDNN_STATUS_EXECUTION_FAILED" in told
