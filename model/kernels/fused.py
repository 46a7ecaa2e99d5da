"""Whole halves of a block in one call each, what comes before attention (before.py) and what comes after it (after.py):
with few rows a step costs what its calls cost, and these are three a layer.

A pass over a built model: `fuse(model)` replaces the blocks of attention and a feed-forward or a mixture, and leaves
the others as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

from torch import Tensor, nn

from model import config
from model.attention import GroupedAttention, LatentAttention, Surroundings
from model.kernels import feeding, panels
from model.kernels.after import After
from model.kernels.attention import Scores
from model.kernels.before import Before, GroupedBefore
from model.kernels.latent import LatentBefore
from model.kernels.panels import Form
from model.moe import Beside, Loads, MoE, Routing
from model.norm import Norm
from model.stack import Block, Stage
from model.transformer import Transformer


class FusedBlock(Stage):
    """Stands in for a block that `fits`."""

    def __init__(self, plain: Block, form: Form) -> None:
        super().__init__()
        attention, branch = plain.branches
        assert isinstance(attention, GroupedAttention | LatentAttention)
        norm = plain.norms_before[0] if isinstance(plain.norms_before[0], Norm) else None
        value = attention.value
        sinks = None if attention.sinks is None else attention.sinks.detach().float()
        self.layer = attention.layer
        self.scores = Scores(value.softmax_scale, value.softcap, attention.slopes, sinks)
        self.before: Before
        if isinstance(attention, LatentAttention):
            self.before = LatentBefore(norm, attention, form)
        else:
            self.before = GroupedBefore(norm, attention, form)
        self.after = After(plain, self.before, form)
        self.mixture = branch if isinstance(branch, MoE | Beside) else None

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        x = x.contiguous()
        query, key, value, selection, gates = self.before(x, around)
        scores = self.scores if selection is None else replace(self.scores, selection=selection)
        attended = around.cache.attend(self.layer, query, key, value, scores)
        out, normed = self.after(x, attended, gates)
        if self.mixture is None:
            return out, []
        y, routing = self.mixture(normed, loads)
        return self.after.join(out, y), [routing]


def fuse(model: Transformer, *, form: Form = "lossless") -> int:
    """Replace every block that fits; returns how many. form: of the blocks' weights."""
    count = 0
    for i, block in enumerate(model.blocks):
        if fits(block):
            model.blocks[i] = FusedBlock(block, form)
            count += 1
    return count


def fits(block: nn.Module) -> TypeGuard[Block]:
    """Whether a block is attention and then, or beside it, a feed-forward or a mixture, the kernels have all of it, and
    its weights can be laid out in panels."""
    if not isinstance(block, Block) or block.value.gated or len(block.branches) != 2:
        return False
    attention, branch = block.branches
    return _fits_attention(attention) and (isinstance(branch, MoE | Beside) or feeding.fits(branch))


def _fits_attention(attention: nn.Module) -> bool:
    match attention:
        case GroupedAttention(heads=heads):
            layers, sizes = [attention.qkv], [heads.dim]
        case LatentAttention(heads=heads, indexer=indexer):
            downs = [layer for layer in (attention.query_down, attention.latent_down) if isinstance(layer, nn.Linear)]
            layers = [*downs, attention.query_up]
            sizes = [heads.kv_rank, heads.plain_dim, heads.rotary_dim, heads.value_dim, heads.query_rank or 0]
            if indexer is not None:
                layers, sizes = [*layers, indexer.query, indexer.key, indexer.weights], [*sizes, indexer.value.dim]
        case _:
            return False
    if isinstance(attention.value.position, config.Buckets):
        return False
    layers += [attention.out] if attention.gate is None else [attention.gate, attention.out]
    laid_out = all(isinstance(layer, nn.Linear) and panels.supported(layer.weight) for layer in layers)
    return laid_out and all(size % 16 == 0 for size in (*sizes, attention.out.out_features))
