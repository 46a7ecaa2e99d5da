"""Drawings of blocks for a terminal: the residual stream runs down the left edge, branches leave it and come back.

│
├──▶ RMS norm
│    ┌────────────────────────────┐
│    │ grouped-query attention    │
│    │ 32 heads share 8           ├─┐
│    └────────────────────────────┘ │
⊕◀──────────────────────────────────┘
│
"""

from __future__ import annotations

import textwrap
from collections import Counter

from model import describe as words
from model.config import Architecture, Attention, Beside, Block, Branch, CrossAttention, Embedding, Full, MoE, Recurrent
from model.naming import Names, block_names, of_kinds

INNER = 26  # columns of text in a box
WIDTH = INNER + 12
STRIP = 24  # squares that stand for the experts


def draw(architecture: Architecture, names: Names | None = None) -> list[str]:
    """The whole model from tokens to logits, each distinct block once, lines of at most WIDTH columns."""
    if names is None:
        architecture = of_kinds(architecture)
    names = names or block_names(architecture)
    lines = ["tokens", *_down(f"embedding, {architecture.vocab:,} × {architecture.width:,}")]
    lines += _entry(architecture.embedding)
    if architecture.encoder is not None:
        lines += _stack(architecture.encoder.blocks, names, both_ways=True)
        lines += [" ▼ the memory of cross-attention", "", "tokens so far", *_down("the same embedding")]
    lines += _stack(architecture.blocks, names)
    if architecture.norm is not None:
        lines += _down(words.norm_words(architecture.norm))
    return [*lines, *_down(f"head, {words.head_words(architecture)}"), f"   {architecture.vocab:,} logits"]


def draw_block(block: Block, both_ways: bool = False) -> list[str]:
    """One block. `both_ways`: it stands in an encoder."""
    if block.parallel:
        return [" │", *_side_by_side(block, both_ways)]
    lines = [" │"]
    for branch in block.branches:
        text, norm = contents(branch, both_ways), _norm_before(block, branch)
        lines += [f" ├──▶ {norm}", *_box(text, " │    ")] if norm else _box(text, " │    ", " ├───▶")
        lines += [_return(block), *_after(block), " │"]
    return lines


def contents(branch: Branch, both_ways: bool = False) -> list[str]:
    """The lines of text in the box of a branch."""
    match branch:
        case Attention():
            return _attention(branch, both_ways)
        case CrossAttention(heads):
            return ["cross-attention", words.heads_words(heads), "looks at the memory"]
        case Recurrent():
            kind = words.mixer_kind(branch)
            return [f"{kind} mixer", words.states_words(branch), f"carries {branch.state_numbers:,} numbers"]
        case MoE():
            return _mixture(branch)
        case Beside(dense, mixture):
            return ["feed-forward", words.feed_forward_words(dense), "and beside it", *_mixture(mixture)]
        case _:
            return ["feed-forward", words.feed_forward_words(branch)]


def _attention(value: Attention, both_ways: bool) -> list[str]:
    span = "everything, both ways" if both_ways and isinstance(value.span, Full) else words.span_words(value.span)
    position = words.position_words(value)
    return [
        f"{words.heads_kind(value.heads)} attention",
        words.heads_words(value.heads),
        *([] if position == "none" else [position]),
        *words.score_words(value),
        f"sees {span}",
        *([] if both_ways else [f"caches {words.cached_words(value)}"]),
    ]


def _mixture(value: MoE) -> list[str]:
    squares = min(STRIP, value.experts)
    chosen = max(1, round(value.active / value.experts * squares))
    each = f"each {words.feed_forward_words(value.expert)}"
    return [
        f"{value.active} of {value.experts:,} experts",
        "■" * chosen + "□" * (squares - chosen),
        each,
        *(f"+ {shared}" for shared in words.shared_words(value)),
        words.router_words(value),
    ]


def _stack(blocks: tuple[Block, ...], names: Names, both_ways: bool = False) -> list[str]:
    lines = [" │"]
    for block, count in Counter(blocks).items():
        lines += [f"─┼─ {names[block]} × {count} ".ljust(WIDTH, "─")[:WIDTH], *draw_block(block, both_ways)]
    return [*lines, "─┼".ljust(WIDTH, "─"), " │"]


def _entry(value: Embedding) -> list[str]:
    """Lines that tell what happens to an embedding before the first block."""
    said = [] if value.scale == 1 else [words.times_words(value.scale)]
    said += [] if value.position is None else [f"+ {type(value.position).__name__.lower()} positions"]
    said += [] if value.norm is None else [words.norm_words(value.norm)]
    return [f" │ {line}" for line in said]


def _down(text: str) -> list[str]:
    first, *rest = textwrap.wrap(text, WIDTH - 3)
    return [f" ▼ {first}", *(f"   {line}" for line in rest)]


def _norm_before(block: Block, branch: Branch) -> str:
    if isinstance(branch, Beside):
        return "each part behind its norm"
    return words.norm_words(block.norm) if block.placement in ("pre", "sandwich") else ""


def _box(text: list[str], left: str, entry: str | None = None, passed: bool = False) -> list[str]:
    """Text in a box behind `left`, which is `entry` at its first line; its last line leads right, to a line that goes
    down and, when one comes from above, is `passed` through."""
    rows = [line for part in text for line in textwrap.wrap(part, INNER, subsequent_indent="  ")]
    above = " │" if passed else ""
    body = [f"{left}│ {row.ljust(INNER)} │{above}" for row in rows]
    body[0] = (entry or left) + body[0][len(left) :]
    body[-1] = f"{body[-1][: len(left) + INNER + 3]}├─{'┤' if passed else '┐'}"
    edge = "─" * (INNER + 2)
    return [f"{left}┌{edge}┐{above}", *body, f"{left}└{edge}┘ │"]


def _return(block: Block) -> str:
    """The line that leads back to the stream and tells what is done to a branch's output, from right to left."""
    done = [words.norm_words(block.norm)] if block.placement in ("output", "sandwich") else []
    done += [f"× {block.residual_scale:g}"] * (block.residual_scale != 1) + ["× tanh(gate)"] * block.gated
    way = " ⊕◀" + "".join(f"─ {step} ◀" for step in reversed(done))
    return way.ljust(WIDTH - 1, "─") + "┘"


def _after(block: Block) -> list[str]:
    return [" │", f" ▼ {words.norm_words(block.norm)}"] if block.placement == "post" else []


def _side_by_side(block: Block, both_ways: bool) -> list[str]:
    """The lines of a block whose branches read the same stream and are added to it at once."""
    normed = block.placement in ("pre", "sandwich")
    norm, last = words.norm_words(block.norm), len(block.branches) - 1
    lines = [f" ├──▶ {norm}" if block.shared_norm and normed else " ├──┐"]
    for i, branch in enumerate(block.branches):
        text, after = contents(branch, both_ways), " │  │ " if i < last else " │    "
        turn = "└" if i == last else "├"
        if block.shared_norm or not normed:
            box = _box(text, after, f" │  {turn}▶", passed=i > 0)
            lines += [" │  │ " + box[0][len(after) :], *box[1:]]
        else:
            lines += [f" │  {turn}▶ {norm}".ljust(WIDTH - 1) + ("│" if i else "")]
            lines += _box(text, after, passed=i > 0)
    return [*lines, _return(block), " │"]
