"""The pieces of a recurrent mixer: the rows of its projection and of its convolution, wherever a family keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from model import config
from model.checkpoint.changes import Chain, OfRows, Squeezed
from model.checkpoint.layout import Fused, RecurrentNames
from model.checkpoint.piece import Piece, linear, piece

CHANNEL = Squeezed((1,))  # a convolution of channels apart is stored as (channels, 1, width)


def recurrent(ours: str, theirs: str, value: config.Recurrent, names: RecurrentNames) -> Iterator[Piece]:
    """Every piece of a mixer; `names` are those of its family, below `theirs`."""
    sizes = _sizes(value)
    yield from _into(f"{ours}.into.weight", theirs, sizes, names, value.keys if names.by_key_head else 1)
    if value.gate is not None and value.gate.rank is not None:
        yield from linear(f"{ours}.gate_up", f"{theirs}.{names.gate_up}", bias=False)
    if value.convolution is not None:
        yield from _taps(ours, theirs, sizes, names.taps, value.convolution.bias)
    if value.learned is not None:
        if value.learned.rank is not None:
            yield from linear(f"{ours}.decay_up", f"{theirs}.{names.decay_up}", bias=False)
        yield piece(f"{ours}.rate", f"{theirs}.{names.rate}", (), Squeezed(names.rate_ones))
        yield piece(f"{ours}.step_bias", f"{theirs}.{names.step_bias}")
    if value.skip:
        yield piece(f"{ours}.skip", f"{theirs}.{names.skip}")
    if value.norm is not None:
        yield piece(f"{ours}.norm", f"{theirs}.{names.norm}.weight")
    yield from linear(f"{ours}.out", f"{theirs}.{names.out}", bias=False)


def _into(ours: str, theirs: str, sizes: Mapping[str, int], names: RecurrentNames, groups: int) -> Iterator[Piece]:
    for name, parts in names.into:
        rows = sum(sizes[part] for part in parts) // groups
        first = 0
        for part in parts:
            size = sizes[part] // groups
            yield piece(ours, f"{theirs}.{name}.weight", (_rows(sizes, part),), OfRows(first, size, rows))
            first += size


def _taps(ours: str, theirs: str, sizes: Mapping[str, int], layers: tuple[Fused, ...], bias: bool) -> Iterator[Piece]:
    for name, parts in layers:
        channels, first = sum(sizes[part] for part in parts), 0
        for part in parts:
            own, place = OfRows(first, sizes[part], channels), (_rows(sizes, part),)
            yield piece(f"{ours}.taps", f"{theirs}.{name}.weight", place, Chain(CHANNEL, own))
            if bias:
                yield piece(f"{ours}.tap_bias", f"{theirs}.{name}.bias", place, own)
            first += sizes[part]


def _sizes(value: config.Recurrent) -> dict[str, int]:
    """Rows of each part of the projection, in our order."""
    keys = value.keys * value.key_dim
    gate = 0 if value.gate is None else value.gate.rank or value.inner
    rank = None if value.learned is None else value.learned.rank
    strength = value.heads if value.rule == "delta" else 0
    return {
        "query": keys,
        "key": keys,
        "value": value.inner,
        "gate": gate,
        "decay": rank or value.steps,
        "strength": strength,
    }


def _rows(sizes: Mapping[str, int], part: str) -> slice:
    """Where the part is in our projection; in our convolution too, whose channels are the first three."""
    before = list(sizes)[: list(sizes).index(part)]
    start = sum(sizes[other] for other in before)
    return slice(start, start + sizes[part])
