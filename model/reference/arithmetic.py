"""What every part of the reference uses: weights by name, linear maps, norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from model import config


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a state dict whose names begin with `prefix`."""

    tensors: Mapping[str, Tensor]
    prefix: str = ""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(self.prefix + name)

    def under(self, name: str) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def row(self, index: int) -> Weights:
        """One row of each of these tensors."""
        own = {name: tensor[index] for name, tensor in self.tensors.items() if name.startswith(self.prefix)}
        return Weights(own, self.prefix)


def norm(x: Tensor, value: config.Norm | None, w: Weights) -> Tensor:
    """Layer norm is RMS norm of the centred vector."""
    if value is None:
        return x
    if value.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    y = x / (x.square().mean(-1, keepdim=True) + value.eps).sqrt()
    if value.weight:
        y = y * (value.offset + w["weight"])
    return y + w["bias"] if value.bias else y


def linear(x: Tensor, w: Weights) -> Tensor:
    bias = w.get("bias")
    y = x @ w["weight"].T
    return y if bias is None else y + bias


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def capped(x: Tensor, softcap: float | None) -> Tensor:
    return x if softcap is None else softcap * (x / softcap).tanh()
