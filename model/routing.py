"""What a router decided, as numbers: load of the experts, entropy, imbalance. Pure functions of arrays, no torch.

A load is the number of tokens each expert processed, on the last axis; every measure reduces that axis.
"""

from __future__ import annotations

import numpy as np

PAD = np.iinfo(np.int16).min
"""Stands where a layer has a smaller top-k than others. An expert that dropped the token is stored as ~id."""


def expert_loads(choices: np.ndarray, experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Count what became of choices (tokens, layers, top-k) of expert ids below `experts`.

    Returns the load (layers, experts) and, per layer, the choices lost to capacity (layers,); both int64. Padding
    counts nowhere, so that a layer's load and its lost choices sum to tokens * its top-k.
    """
    if choices.size and choices.min() < 0:
        choices = np.where(choices >= 0, choices, np.where(choices == PAD, experts + 1, experts))
    counts = _count(choices, experts + 2)  # two more bins: lost, padding
    return counts[:, :experts], counts[:, experts]


def expert_choices(choices: np.ndarray, experts: int) -> np.ndarray:
    """How many tokens chose each expert, (layers, experts) int64, whether it could take them or not."""
    wished = np.where(choices >= 0, choices, ~choices)  # ~PAD is the largest int16, past every expert
    return _count(np.minimum(wished, experts), experts + 1)[:, :experts]


def entropy(load: np.ndarray) -> np.ndarray:
    """Entropy of the load over ln(experts): 0 when one expert has it all (or there is none), 1 when it is even.

    A single expert's load is even.
    """
    experts = load.shape[-1]
    total = load.sum(-1, keepdims=True)
    if experts == 1:
        return np.asarray(total[..., 0] > 0, np.float64)
    share = load / np.maximum(total, 1)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    # Rounding can leave -0.0 or a little more than 1; both would be odd in a report.
    return np.asarray(np.clip(-(share * logs).sum(-1) / np.log(experts), 0.0, 1.0) + 0.0)


def imbalance(load: np.ndarray) -> np.ndarray:
    """The busiest expert's load over the mean load: 1 is even, `experts` is one expert for all; 0 without load."""
    return np.asarray(load.max(-1) * load.shape[-1] / np.maximum(load.sum(-1), 1))


def dead(load: np.ndarray) -> np.ndarray:
    """How many experts had no token at all."""
    return np.asarray((load == 0).sum(-1))


def busiest_share(load: np.ndarray, lost: np.ndarray | int = 0) -> np.ndarray:
    """The busiest expert's part of all choices, the `lost` ones included; 0 without any."""
    return np.asarray(load.max(-1) / np.maximum(load.sum(-1) + lost, 1))


def _count(ids: np.ndarray, width: int) -> np.ndarray:
    """How often each id below `width` stands in each layer: (tokens, layers, top-k) → (layers, width) int64."""
    layers = ids.shape[1]
    bins = ids + np.arange(0, layers * width, width)[:, None]
    return np.bincount(bins.ravel(), minlength=layers * width).reshape(layers, width)
