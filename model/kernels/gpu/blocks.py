"""Blocks of the common shape on a CUDA GPU: with few tokens a dense one is six to nine kernels, where PyTorch's own
are about twenty. Many tokens go through the plain block, whose products are then large.

A pass over a built model: `build(model)` replaces what lies on a GPU and has the shape.
"""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn

from model import config
from model.attention import GroupedAttention, Surroundings
from model.feedforward import FeedForward, activate
from model.kernels.attention import Scores
from model.kernels.gpu import FEW, experts
from model.kernels.gpu.linear import ACTIVATIONS, Gain, gated, normed, vector
from model.kernels.gpu.turn import Turn, turn
from model.moe import Experts, Loads, MoE, Routing
from model.norm import Norm
from model.stack import Block, Stage
from model.transformer import Transformer


class GpuBlock(Stage):
    """Stands in for a block that `fits`."""

    def __init__(self, plain: Block) -> None:
        super().__init__()
        self.plain = plain
        self.attention, self.branch = parts(plain)
        before, after = plain.norms_before
        assert isinstance(before, Norm) and isinstance(after, Norm)
        self.before, self.after = _gain(before), _gain(after)
        value, heads, branch = self.attention.value, self.attention.heads, self.branch
        norms = [_gain(norm) for norm in _head_norms(self.attention)]
        rotary = value.position if isinstance(value.position, config.Rotary) else None
        self.scores = Scores(value.softmax_scale, value.softcap, self.attention.slopes, self.attention.sinks)
        self.turn = Turn(heads.query, heads.kv, heads.dim, tuple(norms), rotary is not None and rotary.layout != "half")
        self.table = self.attention.table if rotary else None
        self.experts = (branch.experts if isinstance(branch, MoE) else None,)  # no child: those get grouped

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        """Run the block; the sum may lie in x's memory, which a step hands from block to block and nobody else has."""
        if len(x) > FEW:
            found: tuple[Tensor, list[Routing]] = self.plain(x, around, loads)
            return found
        x, branch = self._attend(x, around), self.branch
        return self._mix(x, branch) if isinstance(branch, MoE) else (self._feed(x, branch), [])

    def _attend(self, x: Tensor, around: Surroundings) -> Tensor:
        attention = self.attention
        projected = _normed_linear(x, self.before, attention.qkv)
        placed = turn(projected, self.turn, None if self.table is None else around.turn(self.table))
        attended = around.cache.attend(attention.layer, *placed, self.scores)
        return _added_linear(attended.flatten(1), attention.out, x)

    def _feed(self, x: Tensor, branch: FeedForward) -> Tensor:
        how, up = branch.value, branch.up
        kind = str(how.activation)
        if len(x) == 1:
            hidden = vector(x, up.weight, up.bias, norm=self.after, activation=kind, gated=how.gated)
        else:
            hidden = up(normed(x, self.after))
            hidden = gated(hidden, kind) if how.gated else activate(how, hidden)
        return _added_linear(hidden, branch.down, x)

    def _mix(self, x: Tensor, branch: MoE) -> tuple[Tensor, list[Routing]]:
        seen, routing = experts.choose(x, branch.router, self.after)
        (stack,) = self.experts
        assert isinstance(stack, Experts)
        y = experts.mix(seen, stack, routing, x)
        return (y if branch.shared is None else y + branch.share(seen)), [routing]


def _normed_linear(x: Tensor, norm: Gain, layer: nn.Linear) -> Tensor:
    if len(x) == 1:
        return vector(x, layer.weight, layer.bias, norm=norm)
    y: Tensor = layer(normed(x, norm))
    return y


def _added_linear(x: Tensor, layer: nn.Linear, added: Tensor) -> Tensor:
    """x through a layer, plus `added`, which is overwritten where there are several tokens."""
    if len(x) == 1:
        return vector(x, layer.weight, layer.bias, added=added)
    if layer.bias is not None:
        added += layer.bias
    return added.addmm_(x, layer.weight.t())


def build(model: Transformer) -> int:
    """Replace every block that lies on a GPU and fits; returns how many."""
    count = 0
    for i, block in enumerate(model.blocks):
        if fits(block) and next(block.parameters()).is_cuda:
            model.blocks[i] = GpuBlock(block)
            count += 1
    return count


def fits(block: nn.Module) -> TypeGuard[Block]:
    """Whether a block has the shape that most have, and the kernels compute what its parts do: pre-norm, grouped-query
    attention and then a feed-forward or a mixture, and nothing that few architectures have."""
    if not isinstance(block, Block) or not _is_plain(block.value) or len(block.branches) != 2:
        return False
    attention, branch = block.branches
    if not _is_plain_attention(attention) or not isinstance(branch, FeedForward | MoE):
        return False
    norms = *block.norms_before, *_head_norms(attention)
    if not all(isinstance(norm, Norm) and norm.value.kind == "rms" and norm.bias is None for norm in norms):
        return False
    return experts.fits(branch) if isinstance(branch, MoE) else branch.value.activation in ACTIVATIONS


def _is_plain(value: config.Block) -> bool:
    serial = not value.parallel and not value.shared_norm
    return value.placement == "pre" and serial and not value.gated and value.residual_scale == 1


def _is_plain_attention(attention: nn.Module) -> TypeGuard[GroupedAttention]:
    if not isinstance(attention, GroupedAttention):
        return False
    value, heads = attention.value, attention.heads
    plain_heads = heads.clip is None and not heads.shared_value and heads.value_norm is None
    norm = heads.qk_norm
    plain_norm = norm is None or (norm.over == "head" and not norm.after_rotation)
    plain_output = value.gate is None and value.temperature is None and not isinstance(value.position, config.Buckets)
    return plain_heads and plain_norm and plain_output


def _head_norms(attention: GroupedAttention) -> list[Norm]:
    """The norms of single query and key heads, none or two."""
    norms = (attention.query_norm, attention.key_norm)
    return [norm for norm in norms if isinstance(norm, Norm)]


def parts(block: Block) -> tuple[GroupedAttention, FeedForward | MoE]:
    """The two branches of a block of the common shape."""
    attention, branch = block.branches
    assert isinstance(attention, GroupedAttention) and isinstance(branch, FeedForward | MoE)
    return attention, branch


def _gain(norm: Norm) -> Gain:
    return Gain(norm.weight, norm.value.offset, norm.value.eps)
