"""The passes over a built model that make it fast, in order: the one place that the server and every measurement share.

Each is a room of its own in this folder, held to the plain model by tests, and leaves alone what it has nothing for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn

from model.kernels import ends, feeding, fused, gpu, grouped, layers, native, packed, recurring
from model.kernels.experts import PanelExperts
from model.kernels.panels import PANEL, Form, PanelWeight
from model.recurrent import RecurrentMixer
from model.stack import Stage
from model.transformer import Transformer


def apply(model: Transformer, *, form: Form = "lossless") -> Transformer:
    """The same model, changed in place to the fastest form this machine has; it can no longer be trained or saved.

    What stands in for a module is new, and takes the model's mode: only in training do routers add noise.
    form: of linear layers, those of experts and the head included; in 8 bits they are less exact.
    """
    fused.fuse(model, form=form)
    ends.fuse(model, form=form)
    for module in model.modules():
        if isinstance(module, RecurrentMixer) and recurring.fits(module.value, module.out.weight):
            module.compiled = recurring.CompiledMixing(module.mixing())
    packed.pack(model, form=form)
    layers.join(model)
    if gpu.usable(model.embedding.weight):
        from model.kernels.gpu import blocks

        blocks.build(model)
    grouped.group(model)
    return model.train(model.training)


def lean(model: Transformer) -> bool:
    """Whether the kernels have all linear layers of the model, so that little is left to torch (`native.alone`)."""
    return model.embedding.weight.device.type == "cpu" and not any(isinstance(m, nn.Linear) for m in model.modules())


def left(model: Transformer) -> int:
    """How many blocks that a text passes, on a processor that has kernels, are not wholly in them; what PyTorch does of
    them takes several times as long with small models or few rows."""
    here = model.embedding.weight.device.type == "cpu" and model.embedding.weight.dtype in native.linear_types()
    skips = model.architecture.encoder is None
    run = [stage for stage in model.blocks if not (skips and cast(Stage, stage).needs_memory)]
    return sum(not isinstance(stage, layers.Layers) and not layers.fits(stage) for stage in run) if here else 0


def weight_bytes(model: Transformer) -> float | None:
    """Mean bytes of one weight in the panels of a model that passes were applied to; None without panels."""
    laid = list(_laid_out(model))
    count = sum(-(-weight.columns // PANEL) * PANEL * weight.depth for weight in laid)
    return sum(weight.nbytes for weight in laid) / count if count else None


def _laid_out(model: Transformer) -> Iterator[PanelWeight]:
    for module in model.modules():
        match module:
            case fused.FusedBlock():
                yield from (() if module.before is None else module.before.weights)
                yield from module.after.weights
            case packed.PanelLinear():
                yield module.weight
            case feeding.PanelFeedForward():
                yield from module.weights
            case PanelExperts():
                yield from (*module.up, *module.down)
