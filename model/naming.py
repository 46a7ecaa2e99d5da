"""Names for the blocks of an architecture: what tells them apart, in one word or two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from model.config import Architecture, Attention, Beside, Block, Chunk, FeedForward, MoE, Recurrent, Window

Trait = Callable[[Block], str]
Names = Mapping[Block, str]


def block_names(architecture: Architecture) -> dict[Block, str]:
    """Every distinct block and its name, in the order of the layers, an encoder's after the decoder's."""
    names: dict[Block, str] = {}
    _name(architecture.blocks, "", names)
    if architecture.encoder is not None:
        _name(architecture.encoder.blocks, "encoder", names)
    return names


def of_kinds(architecture: Architecture) -> Architecture:
    """The architecture with one block for all that differ by their depth alone, for pages that show each block once."""
    return replace(architecture, blocks=tuple(block.kind for block in architecture.blocks))


def _name(stack: Iterable[Block], prefix: str, names: dict[Block, str]) -> None:
    blocks = [block for block in dict.fromkeys(stack) if block not in names]
    traits = _telling(blocks)
    for block in blocks:
        words = [word for word in (prefix, *(trait(block) for trait in traits)) if word]
        name = "-".join(words) or feeding(block) or "block"
        taken = sum(other == name or other.startswith(f"{name}.") for other in names.values())
        names[block] = f"{name}.{taken + 1}" if taken else name


def _telling(blocks: list[Block]) -> list[Trait]:
    """The traits in which the blocks differ."""
    telling: list[Trait] = [trait for trait in (looking, reaching, feeding) if _differs(trait, blocks)]
    if len({tuple(trait(block) for trait in telling) for block in blocks}) < len(blocks):
        telling += [placing] * _differs(placing, blocks)
    return telling


def _differs(trait: Trait, blocks: list[Block]) -> bool:
    said = {trait(block) for block in blocks}
    return len(said) > 1 and not (trait is reaching and len(said - {""}) == 1)


def looking(block: Block) -> str:
    return "cross" if block.needs_memory else ""


def reaching(block: Block) -> str:
    """How far the block's attention sees, or that it is recurrent."""
    if any(isinstance(branch, Recurrent) for branch in block.branches):
        return "recurrent"
    spans = {type(branch.span) for branch in block.branches if isinstance(branch, Attention)}
    if not spans:
        return ""
    return "local" if Window in spans else "chunked" if Chunk in spans else "global"


def feeding(block: Block) -> str:
    """Whether the block has experts or a feed-forward, if it has one of them."""
    if any(isinstance(branch, MoE | Beside) for branch in block.branches):
        return "sparse"
    return "dense" if any(isinstance(branch, FeedForward) for branch in block.branches) else ""


def placing(block: Block) -> str:
    """Whether the block's attention has a position of its own."""
    attentions = [branch for branch in block.branches if isinstance(branch, Attention)]
    return "" if not attentions or any(branch.position for branch in attentions) else "nope"
