"""Whole halves of a block in one call each, what comes before attention (before.py) and what comes after it (after.py):
with few rows a step costs what its calls cost, and these are three a layer.

A pass over a built model: `fuse(model)` replaces the blocks of the common shape, pre-norm with grouped-query or latent
attention and then a feed-forward or a mixture, and leaves the others as they are.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.attention import GroupedAttention, LatentAttention, Surroundings
from model.feedforward import FeedForward
from model.kernels import common, panels
from model.kernels.after import After
from model.kernels.attention import Scores
from model.kernels.before import Before, GroupedBefore, LatentBefore
from model.kernels.experts import ACTIVATIONS
from model.kernels.panels import Form
from model.moe import Loads, MoE, Routing
from model.norm import Norm
from model.stack import Block
from model.transformer import Transformer


class FusedBlock(Block):
    """Stands in for a block that `fits`."""

    def __init__(self, plain: Block, form: Form) -> None:
        nn.Module.__init__(self)
        self.value = plain.value
        attention, branch = plain.branches
        assert isinstance(attention, GroupedAttention | LatentAttention)
        before, after = plain.norms_before
        assert isinstance(before, Norm) and isinstance(after, Norm)
        self.layer = attention.layer
        value = attention.value
        sinks = None if attention.sinks is None else attention.sinks.detach().float()
        self.scores = Scores(value.softmax_scale, value.softcap, attention.slopes, sinks)
        self.before: Before
        if isinstance(attention, LatentAttention):
            self.before = LatentBefore(before, attention, form)
        else:
            self.before = GroupedBefore(before, attention, form)
        feed = branch if isinstance(branch, FeedForward) else None
        self.after = After(after, attention, feed, self.before, form)
        self.mixture = branch if isinstance(branch, MoE) else None

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        x = x.contiguous()
        attended = around.cache.attend(self.layer, *self.before(x, around), self.scores)
        out, normed = self.after(x, attended)
        if self.mixture is None:
            return out, []
        y, routing = self.mixture(normed, loads)
        return out + y, [routing]


def fuse(model: Transformer, *, form: Form = "lossless") -> int:
    """Replace every block that fits; returns how many. form: of the blocks' weights."""
    count = 0
    for i, block in enumerate(model.blocks):
        if isinstance(block, Block) and fits(block):
            model.blocks[i] = FusedBlock(block, form)
            count += 1
    return count


def fits(block: Block) -> bool:
    """Whether a block has the common shape and its weights can be laid out in panels."""
    if not common.has_shape(block):
        return False
    attention, branch = block.branches
    return _fits_attention(attention) and (isinstance(branch, MoE) or _fits_feed_forward(branch))


def _fits_attention(attention: nn.Module) -> bool:
    match attention:
        case GroupedAttention() if common.is_plain_grouped(attention):
            layers, sizes = [attention.qkv, attention.out], [attention.heads.dim]
        case LatentAttention() if common.is_plain_latent(attention):
            heads = attention.heads
            downs = [layer for layer in (attention.query_down, attention.latent_down) if isinstance(layer, nn.Linear)]
            layers = [*downs, attention.query_up, attention.out]
            sizes = [heads.kv_rank, heads.plain_dim, heads.rotary_dim, heads.value_dim, heads.query_rank or 0]
        case _:
            return False
    laid_out = all(isinstance(layer, nn.Linear) and panels.supported(layer.weight) for layer in layers)
    return laid_out and all(size % 16 == 0 for size in (*sizes, attention.out.out_features))


def _fits_feed_forward(branch: nn.Module) -> bool:
    assert isinstance(branch, FeedForward)
    known = branch.value.activation in ACTIVATIONS
    return known and all(panels.supported(layer.weight) for layer in (branch.up, branch.down))
