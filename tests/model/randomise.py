"""Models whose every number matters: fresh ones have zero biases, unit norms and zero gates that hide mistakes."""

from __future__ import annotations

import torch

from model.config import Architecture
from model.transformer import Transformer


def random_model(architecture: Architecture, seed: int = 0) -> Transformer:
    """A float32 model with every parameter and persistent buffer drawn: matrices of unit gain, vectors around 0.5."""
    model = Transformer(architecture).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() == 1:
            drawn = 0.5 + 0.7 * drawn
        elif "embedding" not in name:
            drawn = drawn * tensor.shape[-1] ** -0.5
        tensor.copy_(drawn)
    return model


def random_tokens(architecture: Architecture, length: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(architecture.vocab, (length,), generator=generator).tolist())


def rounded(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Its parameters in another type; what is no parameter stays exact, as in a loaded model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
