"""An architecture and a layout → the pieces that fill the model: the values say what there is, the layout its names."""

from __future__ import annotations

from collections.abc import Iterator

from model import config
from model.checkpoint.changes import Change, OfGroups, OfHeads, OfRows, Projected, Squeezed
from model.checkpoint.layout import FeedForwardNames, GroupedNames, LatentNames, Layout, MixtureNames
from model.checkpoint.piece import Piece, linear, piece
from model.checkpoint.recurrent import recurrent


def pieces(architecture: config.Architecture, layout: Layout) -> Iterator[Piece]:
    """Every piece of the model, in the order of the forward pass."""
    yield from _embedding(architecture.embedding, layout)
    for i, block in enumerate(architecture.blocks):
        after = _names_after(i, len(architecture.blocks), layout)
        yield from _block(f"blocks.{i}", layout.block.format(i=i), after, block, layout)
    yield from _norm("norm", layout.norm, architecture.norm)
    yield from _head(architecture.head, layout)


def _embedding(value: config.Embedding, layout: Layout) -> Iterator[Piece]:
    table = f"{layout.embedding}.weight"
    if layout.folded is None:
        yield piece("embedding.weight", table)
    else:
        into = Projected(layout.folded.narrow, out=False)
        yield Piece("embedding.weight", (table, f"{layout.folded.into}.weight"), (), into)
    if isinstance(value.position, config.Learned):
        yield piece("position.table.weight", f"{layout.position}.weight")
    yield from _norm("embedding_norm", layout.embedding_norm, value.norm)


def _head(value: config.Head, layout: Layout) -> Iterator[Piece]:
    if layout.folded is not None:
        out = Projected(layout.folded.narrow, out=True)
        yield Piece("head.weight", (f"{layout.embedding}.weight", f"{layout.folded.out}.weight"), (), out)
    elif not value.tied:
        yield piece("head.weight", f"{layout.head}.weight")
    if value.bias:
        yield piece("head_bias" if value.tied else "head.bias", f"{layout.head}.bias")


def _names_after(i: int, blocks: int, layout: Layout) -> tuple[str, ...]:
    """The norms after the branches of block i, or on their sums."""
    own = tuple(f"{layout.block.format(i=i)}.{name}" for name in layout.after)
    if not layout.following:
        return own
    last = layout.norm if i + 1 == blocks else f"{layout.block.format(i=i + 1)}.{layout.following}"
    return (*own, last)


def _block(ours: str, theirs: str, after: tuple[str, ...], value: config.Block, layout: Layout) -> Iterator[Piece]:
    if value.placement in ("pre", "sandwich"):
        count = 1 if value.shared_norm else len(value.branches)
        for i, name in zip(range(count), layout.before, strict=False):
            yield from _norm(f"{ours}.norms_before.{i}", f"{theirs}.{name}", value.norm)
    for i, branch in enumerate(value.branches):
        yield from _branch(f"{ours}.branches.{i}", theirs, branch, layout)
    if value.placement != "pre":
        for i, name in zip(range(len(value.branches)), after, strict=True):
            yield from _norm(f"{ours}.norms_after.{i}", name, value.norm)


def _branch(ours: str, theirs: str, value: config.Branch, layout: Layout) -> Iterator[Piece]:
    match value:
        case config.Attention():
            yield from _attention(ours, theirs, value, layout)
        case config.Recurrent():
            assert layout.recurrent is not None, "a layout of a family with recurrent mixers names their parts"
            yield from recurrent(ours, theirs, value, layout.recurrent)
        case config.FeedForward():
            yield from _feed_forward(ours, theirs, value, layout.feed_forward, layout.transposed)
        case config.MoE():
            assert layout.mixture is not None, "a layout of a family with experts names them"
            yield from _mixture(ours, theirs, value, layout.mixture)
        case _:
            raise NotImplementedError(f"no layout names the parts of {value}")


def _norm(ours: str, theirs: str, value: config.Norm | None) -> Iterator[Piece]:
    if value is not None and value.weight:
        yield piece(f"{ours}.weight", f"{theirs}.weight")
    if value is not None and value.bias:
        yield piece(f"{ours}.bias", f"{theirs}.bias")


def _attention(ours: str, theirs: str, value: config.Attention, layout: Layout) -> Iterator[Piece]:
    names = layout.attention
    match value.heads, names:
        case config.Grouped() as heads, GroupedNames():
            yield from _grouped(ours, theirs, heads, names, layout.transposed, value.gate is not None)
            if value.sinks:
                yield piece(f"{ours}.sinks", f"{theirs}.{names.sinks}")
        case config.Latent() as heads, LatentNames():
            yield from _latent(ours, theirs, heads, names)
            if value.gate is not None:
                yield from linear(f"{ours}.gate", f"{theirs}.{names.gate}", bias=False)
    yield from linear(f"{ours}.out", f"{theirs}.{names.out}", bias=value.out_bias, transposed=layout.transposed)


def _grouped(
    ours: str, theirs: str, heads: config.Grouped, names: GroupedNames, transposed: bool, gated: bool
) -> Iterator[Piece]:
    if len(names.qkv) == 1 and not names.by_group:
        yield from linear(f"{ours}.qkv", f"{theirs}.{names.qkv[0]}", bias=heads.bias, transposed=transposed)
    else:
        yield from _projections(f"{ours}.qkv", theirs, heads, names, gated)
    if gated:
        assert len(names.qkv) == 3, "a gate is read beside queries that have a layer of their own"
        yield piece(f"{ours}.gate.weight", f"{theirs}.{names.qkv[0]}.weight", (), _beside(heads, 1))
    yield from _head_norms(f"{ours}.query_norm", f"{theirs}.{names.query_norm}", heads.qk_norm, heads.query)
    yield from _head_norms(f"{ours}.key_norm", f"{theirs}.{names.key_norm}", heads.qk_norm, heads.kv)


def _projections(ours: str, theirs: str, heads: config.Grouped, names: GroupedNames, gated: bool) -> Iterator[Piece]:
    """Queries, keys and values of ours, one after another, from three layers or one sorted by key head."""
    start = 0
    for i, (part, count) in enumerate((("query", heads.query), ("key", heads.kv), ("value", heads.kv))):
        rows = slice(start, start + count * heads.dim)
        change: Change | None = None
        if names.by_group:
            change = OfGroups(part, heads.query, heads.kv, heads.dim)  # type: ignore[arg-type]
        elif gated and part == "query":
            change = _beside(heads, 0)
        name = names.qkv[0 if names.by_group else i]
        yield from linear(ours, f"{theirs}.{name}", bias=heads.bias, place=(rows,), change=change)
        start = rows.stop


def _beside(heads: config.Grouped, place: int) -> OfRows:
    """Of a layer that has each head's query and then its gate: the queries (0) or the gates (1)."""
    return OfRows(place * heads.dim, heads.dim, 2 * heads.dim)


def _head_norms(ours: str, theirs: str, value: config.QKNorm | None, heads: int) -> Iterator[Piece]:
    if value is None:
        return
    if "{head}" not in theirs:
        yield from _norm(ours, theirs, value.norm)
        return
    for head in range(heads):
        yield piece(f"{ours}.weight", f"{theirs.format(head=head)}.weight", (head,))


def _latent(ours: str, theirs: str, heads: config.Latent, names: LatentNames) -> Iterator[Piece]:
    if heads.query_rank is None:
        yield from linear(f"{ours}.query_up", f"{theirs}.{names.query}", bias=False)
    else:
        yield from linear(f"{ours}.query_down", f"{theirs}.{names.query_down}", bias=heads.bias)
        yield from _norm(f"{ours}.query_norm", f"{theirs}.{names.query_norm}", heads.norm)
        yield from linear(f"{ours}.query_up", f"{theirs}.{names.query_up}", bias=False)
    yield from linear(f"{ours}.latent_down", f"{theirs}.{names.latent_down}", bias=heads.bias)
    yield from _norm(f"{ours}.latent_norm", f"{theirs}.{names.latent_norm}", heads.norm)
    up, rows = f"{theirs}.{names.latent_up}.weight", heads.plain_dim + heads.value_dim
    yield piece(f"{ours}.key_up", up, (), OfHeads(0, heads.plain_dim, rows))
    yield piece(f"{ours}.value_up", up, (), OfHeads(heads.plain_dim, heads.value_dim, rows))


def _feed_forward(
    ours: str, theirs: str, value: config.FeedForward, names: FeedForwardNames, transposed: bool = False
) -> Iterator[Piece]:
    rows = value.hidden * (2 if value.gated else 1) // len(names.up)
    for i, name in enumerate(names.up):
        place = () if len(names.up) == 1 else (slice(i * rows, (i + 1) * rows),)
        yield from linear(f"{ours}.up", f"{theirs}.{name}", bias=value.bias, place=place, transposed=transposed)
    yield from linear(f"{ours}.down", f"{theirs}.{names.down}", bias=value.bias, transposed=transposed)


def _mixture(ours: str, theirs: str, value: config.MoE, names: MixtureNames) -> Iterator[Piece]:
    yield from linear(f"{ours}.router", f"{theirs}.{names.router}", bias=value.router.bias)
    if value.router.correction:
        change = None if names.flat_correction else Squeezed((0,))
        yield piece(f"{ours}.router.correction", f"{theirs}.{names.correction}", (), change)
    yield from names.experts(value, f"{ours}.experts", theirs)
    if value.shared is not None:
        yield from _feed_forward(f"{ours}.shared", theirs, value.shared, names.shared)
    if value.shared_gate:
        yield from linear(f"{ours}.shared_gate", f"{theirs}.{names.shared_gate}", bias=False)
