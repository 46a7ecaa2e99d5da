"""The passes over a built model that make it fast, in order: the one place that the server and every measurement share.

Each is a room of its own in this folder, held to the plain model by tests, and leaves alone what it has nothing for.
"""

from __future__ import annotations

from model.kernels import card, fused, grouped, layers, packed
from model.transformer import Transformer


def apply(model: Transformer, *, int8: bool = False) -> Transformer:
    """The same model, changed in place to the fastest form this machine has; it can no longer be trained or saved.

    What stands in for a module is new, and takes the model's mode: only in training do routers add noise.
    int8: round the weights of linear layers to 8 bits, one scale an output; less exact, and half the bytes to read.
    """
    fused.fuse(model, int8=int8)
    packed.pack(model, int8=int8)
    layers.join(model)
    if card.usable(model.embedding.weight):
        from model.kernels.card import blocks

        blocks.build(model)
    grouped.group(model)
    return model.train(model.training)
