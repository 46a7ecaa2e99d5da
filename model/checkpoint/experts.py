"""The ways in which checkpoints keep a stack of experts, each as the pieces of our stacked parameters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from model import config
from model.checkpoint.changes import Chain, EverySecond, Mxfp4, Transposed, Unstacked
from model.checkpoint.layout import ExpertPieces
from model.checkpoint.piece import Piece, piece


def apart(gate: str, up: str, down: str) -> ExpertPieces:
    """Three matrices an expert; {e} in a name is the expert."""
    return partial(_apart, (gate, up, down))


def _apart(names: tuple[str, str, str], value: config.MoE, ours: str, theirs: str) -> Iterator[Piece]:
    gate, up = _halves(value)
    for e in range(value.experts):
        stored = [f"{theirs}.{name.format(e=e)}.weight" for name in names]
        yield piece(f"{ours}.up", stored[0], (e, gate))
        yield piece(f"{ours}.up", stored[1], (e, up))
        yield piece(f"{ours}.down", stored[2], (e,))


def plain(up: str, down: str) -> ExpertPieces:
    """Two matrices an expert, which has no gate; {e} in a name is the expert."""
    return partial(_plain, (up, down))


def _plain(names: tuple[str, str], value: config.MoE, ours: str, theirs: str) -> Iterator[Piece]:
    for e in range(value.experts):
        for part, name in zip(("up", "down"), names, strict=True):
            yield piece(f"{ours}.{part}", f"{theirs}.{name.format(e=e)}.weight", (e,))


def stacked(up: str, down: str, transposed: bool = False) -> ExpertPieces:
    """One tensor of all gates and ups, one of all downs: (experts, out, in), or (experts, in, out)."""
    return partial(_stacked, up, down, transposed)


def _stacked(up: str, down: str, transposed: bool, value: config.MoE, ours: str, theirs: str) -> Iterator[Piece]:
    change = Transposed() if transposed else None
    yield piece(f"{ours}.up", f"{theirs}.{up}", (), change)
    yield piece(f"{ours}.down", f"{theirs}.{down}", (), change)


def flattened(gate: str, up: str, down: str) -> ExpertPieces:
    """Three tensors (experts * hidden, width), the down matrices among them transposed (DBRX)."""
    return partial(_flattened, (gate, up, down))


def _flattened(names: tuple[str, str, str], value: config.MoE, ours: str, theirs: str) -> Iterator[Piece]:
    everywhere, rows = slice(None), Unstacked(value.experts)
    for name, half in zip(names[:2], _halves(value), strict=True):
        yield piece(f"{ours}.up", f"{theirs}.{name}", (everywhere, half), rows)
    yield piece(f"{ours}.down", f"{theirs}.{names[2]}", (), Chain(rows, Transposed()))


def alternating(up: str, down: str) -> ExpertPieces:
    """(experts, in, out) with gate and up column by column, and biases (gpt-oss in bf16)."""
    return partial(_alternating, up, down)


def _alternating(up: str, down: str, value: config.MoE, ours: str, theirs: str) -> Iterator[Piece]:
    everywhere = slice(None)
    for first, half in enumerate(_halves(value)):
        columns = Chain(Transposed(), EverySecond(first))
        yield piece(f"{ours}.up", f"{theirs}.{up}", (everywhere, half), columns)
    yield piece(f"{ours}.down", f"{theirs}.{down}", (), Transposed())
    yield from _alternating_biases(up, down, value, ours, theirs)


def quantised(up: str, down: str) -> ExpertPieces:
    """Like `alternating`, with the matrices in MXFP4: NAME_blocks and NAME_scales, (experts, out, in)."""
    return partial(_quantised, up, down)


def _quantised(up: str, down: str, value: config.MoE, ours: str, theirs: str) -> Iterator[Piece]:
    ups, downs = ((f"{theirs}.{name}_blocks", f"{theirs}.{name}_scales") for name in (up, down))
    for e in range(value.experts):
        for first, half in enumerate(_halves(value)):
            yield Piece(f"{ours}.up", ups, (e, half), Mxfp4(e, value.experts, first, 2))
        yield Piece(f"{ours}.down", downs, (e,), Mxfp4(e, value.experts))
    yield from _alternating_biases(up, down, value, ours, theirs)


def _alternating_biases(up: str, down: str, value: config.MoE, ours: str, theirs: str) -> Iterator[Piece]:
    for first, half in enumerate(_halves(value)):
        yield piece(f"{ours}.up_bias", f"{theirs}.{up}_bias", (slice(None), half), EverySecond(first))
    yield piece(f"{ours}.down_bias", f"{theirs}.{down}_bias")


def _halves(value: config.MoE) -> tuple[slice, slice]:
    """Rows of the gate and of the up projection in our stacked parameter."""
    hidden = value.expert.hidden
    return slice(0, hidden), slice(hidden, 2 * hidden)
