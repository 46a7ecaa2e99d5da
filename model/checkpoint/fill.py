"""Builds a model and fills it, piece by piece, from stored tensors: everything is checked before anything is allocated,
and nothing is in memory twice but the tensor in hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from model import skeleton as empty
from model.checkpoint.error import CheckpointError
from model.checkpoint.piece import Piece
from model.checkpoint.weights import Weights
from model.config import Architecture
from model.transformer import Transformer

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes to read."""


def silent(done: int, total: int) -> None:
    """A Progress that does nothing."""


def load(
    architecture: Architecture,
    pieces: Iterable[Piece],
    weights: Weights,
    dtype: torch.dtype,
    progress: Progress = silent,
    ignored: Sequence[str] = (),
) -> Transformer:
    """The model, ready to run: parameters in `dtype`, buffers in float32.

    CheckpointError for tensors that are missing, of the wrong shape or type, or surplus and not matched whole by one of
    the patterns in `ignored`.
    """
    model = skeleton(architecture)
    plan = list(pieces)
    check(model, plan, weights, ignored)
    empty.materialise(model, dtype)
    _fill(model, plan, weights, progress)
    return model.eval().requires_grad_(False)


def skeleton(architecture: Architecture) -> Transformer:
    """The model without memory for its parameters; CheckpointError for sizes that no tensor can have."""
    try:
        return empty.skeleton(architecture)
    except (RuntimeError, OverflowError) as error:
        raise CheckpointError(f"the architecture cannot be built: {str(error).splitlines()[0]}") from None


def check(model: Transformer, plan: Sequence[Piece], weights: Weights, ignored: Sequence[str] = ()) -> None:
    """Raise CheckpointError unless the stored tensors are those the plan reads, in the shapes and types it needs."""
    needed = {source for piece in plan for source in piece.sources}
    _check_names(weights.label, "missing", needed - set(weights.tensors))
    surplus = {name for name in set(weights.tensors) - needed if not any(re.fullmatch(p, name) for p in ignored)}
    _check_names(weights.label, "surplus", surplus)
    targets = model.state_dict()
    for piece in plan:
        _check_piece(piece, tuple(targets[piece.target][piece.place].shape), weights)
    _check_coverage(targets, plan)


def _fill(model: Transformer, plan: Sequence[Piece], weights: Weights, progress: Progress) -> None:
    """Copy every piece to its place, file by file."""
    targets = model.state_dict()
    ordered = sorted(plan, key=lambda piece: weights.tensors[piece.sources[0]].file)
    left = {source: weights.tensors[source].bytes for piece in plan for source in piece.sources}
    done, total = 0, sum(left.values())
    for piece in ordered:
        region: Tensor = targets[piece.target][piece.place]
        region.copy_(piece.change(*(weights.read(source) for source in piece.sources)))
        done += sum(left.pop(source, 0) for source in piece.sources)
        progress(done, total)


def _check_names(label: str, kind: str, names: set[str]) -> None:
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise CheckpointError(f"{label}: {kind} tensor {min(names)}{others}")


def _check_piece(piece: Piece, region: tuple[int, ...], weights: Weights) -> None:
    for source, wanted in zip(piece.sources, piece.change.shapes(region), strict=True):
        stored = weights.tensors[source]
        if stored.shape != wanted:
            shapes = f"{stored.shape}, the architecture asks for {wanted}"
            raise CheckpointError(f"{stored.file.name}: {source} has shape {shapes}")
        if stored.dtype not in piece.change.dtypes:
            types = ", ".join(sorted(piece.change.dtypes))
            raise CheckpointError(f"{stored.file.name}: {source} is stored as {stored.dtype}; taken are {types}")


def _check_coverage(targets: dict[str, Tensor], plan: Sequence[Piece]) -> None:
    """Assert that the plan fills every part of every parameter: a gap is our fault, not the checkpoint's."""
    filled = dict.fromkeys(targets, 0)
    for piece in plan:
        filled[piece.target] += math.prod(targets[piece.target][piece.place].shape)
    wrong = [name for name, tensor in targets.items() if filled[name] != tensor.numel()]
    assert not wrong, f"the plan does not fill {wrong[0]}"
