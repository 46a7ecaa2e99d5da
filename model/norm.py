"""RMS norm and layer norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import config


class Norm(nn.Module):
    """Normalise the last dimension (any leading shape); statistics are taken in float32, the result has x's type.

    With `heads` x is (…, heads, width), and each head has a weight of its own.
    """

    def __init__(self, value: config.Norm, width: int, heads: int | None = None) -> None:
        super().__init__()
        self.value = value
        self.shape = (width,)
        stored = self.shape if heads is None else (heads, width)
        self.weight = nn.Parameter(torch.full(stored, 1.0 - value.offset)) if value.weight else None
        self.bias = nn.Parameter(torch.zeros(stored)) if value.bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight is not None and (self.value.offset or weight.dtype != x.dtype):  # autocast has both
            return self._normalise(x.float(), weight.float() + self.value.offset, self.bias).to(x.dtype)
        return self._normalise(x, weight, self.bias)

    def _normalise(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if any(stored is not None and stored.dim() > 1 for stored in (weight, bias)):
            y = self._normalise(x, None, None)
            y = y if weight is None else y * weight
            return y if bias is None else y + bias
        if self.value.kind == "layer":
            bias = None if bias is None else bias.to(x.dtype)
            return F.layer_norm(x, self.shape, weight, bias, self.value.eps)
        y = F.rms_norm(x, self.shape, weight, self.value.eps)
        return y if bias is None else y + bias


def build_norm(value: config.Norm | None, width: int, heads: int | None = None) -> nn.Module:
    """The norm of a value; None is the identity."""
    return nn.Identity() if value is None else Norm(value, width, heads)
