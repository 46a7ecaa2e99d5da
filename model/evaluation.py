"""Quality: bits per byte of held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F

from model.corpus import Tokens
from model.dense import dense_input
from model.transformer import Transformer


@torch.no_grad()
def bits_per_byte(model: Transformer, tokens: Tokens, length: int, most_tokens: int | None = None) -> float:
    """Mean code length of the text in bits a byte, in windows of `length` tokens with no context across windows.

    most_tokens: stop after about so many and extrapolate the bytes in proportion.
    """
    model.eval()
    nats, seen = 0.0, 0
    for windows in _batches(tokens, length):
        nats += _negative_log_likelihood(model, torch.from_numpy(windows))
        seen += windows[:, 1:].size
        if most_tokens is not None and seen >= most_tokens:
            break
    return nats / math.log(2) / (tokens.text_bytes * seen / (len(tokens.ids) - 1))


def _batches(tokens: Tokens, length: int, size: int = 8) -> Iterator[np.ndarray]:
    """Windows stacked up to `size` of equal length."""
    for _, same in groupby(tokens.windows(length), key=len):
        run = list(same)
        for start in range(0, len(run), size):
            yield np.stack(run[start : start + size])


def _negative_log_likelihood(model: Transformer, windows: torch.Tensor) -> float:
    logits = model(dense_input(model.architecture, windows[:, :-1])).logits
    return float(F.cross_entropy(logits, windows[:, 1:].flatten(), reduction="sum"))
