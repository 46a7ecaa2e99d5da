"""Random weights: what training starts from, and what an architecture without a checkpoint serves."""

from __future__ import annotations

import torch
from torch import nn

from model.config import Architecture
from model.norm import Norm
from model.recurrent import RecurrentMixer
from model.skeleton import materialise, skeleton
from model.transformer import Transformer

INTO_RESIDUAL = (".out.weight", ".down.weight", ".experts.down")  # the dots leave out latent_down and query_down


def random_model(architecture: Architecture, seed: int, dtype: torch.dtype = torch.float32) -> Transformer:
    """A model with random weights, allocated once and in `dtype`; its buffers are float32."""
    model = skeleton(architecture)
    materialise(model, dtype)
    initialise(model, seed)
    return model


def initialise(model: Transformer, seed: int, std: float = 0.02) -> None:
    """Normal weights of deviation `std`, projections back into the residual stream smaller by sqrt(2 * layers); norms
    act as identities, biases, sinks and gates are 0, and the heads of recurrent mixers forget at different speeds."""
    generator = torch.Generator().manual_seed(seed)
    into_residual = std / (2 * len(model.blocks)) ** 0.5
    norms = {id(module.weight): 1.0 - module.value.offset for module in model.modules() if isinstance(module, Norm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in norms:
                parameter.fill_(norms[id(parameter)])
            elif parameter.dim() < 2:
                parameter.zero_()
            else:
                deviation = into_residual if name.endswith(INTO_RESIDUAL) else std
                nn.init.normal_(parameter, std=deviation, generator=generator)
        for module in model.modules():
            if isinstance(module, RecurrentMixer):
                module.spread()
