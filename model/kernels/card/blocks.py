"""Blocks of the common shape on a CUDA card: with few tokens a dense one is seven kernels, where PyTorch's own are about
twenty. Many tokens go through the plain block, whose products are then large.

A pass over a built model: `build(model)` replaces what lies on a card and has the shape.
"""

from __future__ import annotations

from torch import Tensor, nn

from model import config
from model.attention import GroupedAttention, Surroundings
from model.feedforward import FeedForward
from model.kernels import common
from model.kernels.attention import Scores
from model.kernels.card import experts
from model.kernels.card.linear import ACTIVATIONS, Gain, linear
from model.kernels.card.turn import Turn, turn
from model.moe import Experts, Loads, MoE, Routing
from model.norm import Norm
from model.stack import Block
from model.transformer import Transformer

MOST = 64  # tokens: with more, a layer is bound by arithmetic and the library's products are faster


class CardBlock(Block):
    """Stands in for a block that `fits`."""

    def __init__(self, plain: Block) -> None:
        nn.Module.__init__(self)
        self.value, self.plain = plain.value, plain
        attention, branch = plain.branches
        before, after = plain.norms_before
        assert isinstance(attention, GroupedAttention) and isinstance(before, Norm) and isinstance(after, Norm)
        value, heads = attention.value, attention.heads
        norms = [_gain(norm) for norm in common.head_norms(attention)] or [None, None]
        rotary = value.position if isinstance(value.position, config.Rotary) else None
        self.scores = Scores(value.softmax_scale, value.softcap, attention.slopes, attention.sinks)
        self.turn = Turn(heads.query, heads.kv, heads.dim, *norms, rotary is not None and rotary.layout != "half")
        self.table = attention.table if rotary else None
        self.before, self.after = _gain(before), _gain(after)
        self.experts = branch.experts if isinstance(branch, MoE) else None  # as they were before they were grouped

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        if len(x) > MOST:
            found: tuple[Tensor, list[Routing]] = self.plain(x, around, loads)
            return found
        x = self._attend(x, around)
        branch = self.plain.branches[1]
        return self._mix(x, branch) if isinstance(branch, MoE) else (self._feed(x, branch), [])

    def _attend(self, x: Tensor, around: Surroundings) -> Tensor:
        attention = self.plain.branches[0]
        projected = linear(x, attention.qkv.weight, attention.qkv.bias, norm=self.before)
        placed = turn(projected, self.turn, None if self.table is None else around.turn(self.table))
        attended = around.cache.attend(attention.layer, *placed, self.scores)
        return linear(attended.flatten(1), attention.out.weight, attention.out.bias, added=x)

    def _feed(self, x: Tensor, branch: FeedForward) -> Tensor:
        how = branch.value
        hidden = linear(
            x, branch.up.weight, branch.up.bias, norm=self.after, activation=str(how.activation), gated=how.gated
        )
        return linear(hidden, branch.down.weight, branch.down.bias, added=x)

    def _mix(self, x: Tensor, branch: MoE) -> tuple[Tensor, list[Routing]]:
        normed, routing = experts.choose(x, branch.router, self.after)
        assert self.experts is not None
        y = experts.mix(normed, self.experts, routing, x)
        return (y if branch.shared is None else y + branch.share(normed)), [routing]


def build(model: Transformer) -> int:
    """Replace every block that lies on a card and fits; returns how many."""
    count = 0
    for i, block in enumerate(model.blocks):
        if isinstance(block, Block) and next(block.parameters()).is_cuda and fits(block):
            model.blocks[i] = CardBlock(block)
            count += 1
    return count


def fits(block: Block) -> bool:
    """Whether a block has the common shape and the kernels compute what its parts do."""
    if isinstance(block, CardBlock) or not common.has_shape(block):
        return False
    attention, branch = block.branches
    norms = *block.norms_before, *common.head_norms(attention)
    if not all(norm.value.kind == "rms" and norm.bias is None for norm in norms):
        return False
    if isinstance(branch, MoE):
        return experts.fits(branch)
    return isinstance(branch, FeedForward) and branch.value.activation in ACTIVATIONS


def _gain(norm: Norm) -> Gain:
    return Gain(norm.weight, norm.value.offset, norm.value.eps)
