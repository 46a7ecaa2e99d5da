"""Whole halves of a block in one call each, what comes before attention (before.py) and what comes after it (after.py):
with few rows a step costs what its calls cost, and these are three a layer.

A pass over a built model: `fuse(model)` replaces the blocks of attention, or of a recurrent mixer in its place, and a
feed-forward or a mixture, or of one of them alone, and leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

from torch import Tensor, nn

from model import config
from model.attention import GroupedAttention, LatentAttention, Surroundings
from model.kernels import feeding, panels, recurring
from model.kernels.after import After
from model.kernels.attention import Scores
from model.kernels.before import Before, GroupedBefore
from model.kernels.latent import LatentBefore
from model.kernels.panels import Form
from model.kernels.recurring import RecurrentBefore
from model.moe import Beside, Loads, MoE, Routing
from model.norm import Norm
from model.recurrent import RecurrentMixer
from model.stack import Block, Stage
from model.transformer import Transformer


class FusedBlock(Stage):
    """Stands in for a block that `fits`."""

    def __init__(self, plain: Block, width: int, form: Form) -> None:
        super().__init__()
        mixer, branch = plain.branches[0], plain.branches[-1]
        norm = plain.norms_before[0] if isinstance(plain.norms_before[0], Norm) else None
        self.layer: int | None = None
        self.scores: Scores | None = None
        self.before: Before | None = None
        match mixer:
            case RecurrentMixer():
                self.layer, self.before = mixer.layer, RecurrentBefore(norm, mixer, form)
            case LatentAttention():
                self.layer, self.before, self.scores = mixer.layer, LatentBefore(norm, mixer, form), _scores(mixer)
            case GroupedAttention():
                self.layer, self.before, self.scores = mixer.layer, GroupedBefore(norm, mixer, form), _scores(mixer)
        self.after = After(plain, width, self.before, form)
        self.mixture = branch if isinstance(branch, MoE | Beside) else None

    def forward(self, x: Tensor, around: Surroundings, loads: Loads | None) -> tuple[Tensor, list[Routing]]:
        x = x.contiguous()
        out, normed = self.after(x, *self._look_around(x, around))
        if self.mixture is None:
            return out, []
        y, routing = self.mixture(normed, loads)
        return self.after.join(out, y), [routing]

    def _look_around(self, x: Tensor, around: Surroundings) -> tuple[Tensor | None, Tensor | None]:
        """What is attended to, or what a recurrent mixer has in its place; and the gates of it."""
        if self.before is None or self.layer is None:
            return None, None
        if isinstance(self.before, RecurrentBefore):
            return around.cache.carry(self.layer, self.before.mixing, self.before.fed(x)), None
        query, key, value, selection, gates = self.before(x, around)
        assert self.scores is not None
        scores = self.scores if selection is None else replace(self.scores, selection=selection)
        return around.cache.attend(self.layer, query, key, value, scores), gates


def _scores(attention: GroupedAttention | LatentAttention) -> Scores:
    value = attention.value
    sinks = None if attention.sinks is None else attention.sinks.detach().float()
    return Scores(value.softmax_scale, value.softcap, attention.slopes, sinks)


def fuse(model: Transformer, *, form: Form = "lossless") -> int:
    """Replace every block that fits; returns how many. form: of the blocks' weights."""
    count = 0
    for i, block in enumerate(model.blocks):
        if fits(block):
            model.blocks[i] = FusedBlock(block, model.architecture.width, form)
            count += 1
    return count


def fits(block: nn.Module) -> TypeGuard[Block]:
    """Whether a block is attention or a recurrent mixer and then, or beside it, a feed-forward or a mixture, or has one
    of these branches alone; the kernels have all of it, and its weights can be laid out in panels."""
    if not isinstance(block, Block) or block.value.gated:
        return False
    match list(block.branches):
        case [mixer, branch]:
            return _fits_mixer(mixer) and _fits_feeding(branch)
        case [branch]:
            return _fits_mixer(branch) or _fits_feeding(branch)
    return False


def _fits_feeding(branch: nn.Module) -> bool:
    return isinstance(branch, MoE | Beside) or feeding.fits(branch)


def _fits_mixer(branch: nn.Module) -> bool:
    return _fits_recurrent(branch) or _fits_attention(branch)


def _fits_recurrent(mixer: nn.Module) -> bool:
    if not isinstance(mixer, RecurrentMixer) or not recurring.fits(mixer.value, mixer.out.weight):
        return False
    layers = [layer for layer in mixer.children() if isinstance(layer, nn.Linear)]
    return all(panels.supported(layer.weight) for layer in layers) and mixer.out.out_features % 16 == 0


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
