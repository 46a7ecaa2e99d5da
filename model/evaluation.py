"""Quality: bits per byte of held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoint.weights import read_json
from model.corpus import Tokens
from model.dense import dense_input
from model.moe import Routing
from model.transformer import Transformer

LONGEST = 2048  # window, where nothing says what a model was trained with
TOKENS = 4096  # of one pass
LOGITS = 1 << 26  # numbers at a time: 256 MiB


def window(checkpoint: Path, context: int) -> int:
    """The length that the bits per byte on a checkpoint's card were taken with; where there is none, the context, but
    at most LONGEST."""
    card = read_json(checkpoint / "card.json") if (checkpoint / "card.json").is_file() else {}
    recipe = card.get("recipe")
    length = recipe.get("length") if isinstance(recipe, dict) else None
    return min(length if isinstance(length, int) and length > 0 else LONGEST, context)


@torch.no_grad()
def bits_per_byte(
    model: Transformer,
    tokens: Tokens,
    length: int,
    most_tokens: int | None = None,
    routed: Callable[[tuple[Routing, ...]], None] = lambda routings: None,
) -> float:
    """Mean code length of the text in bits a byte, in windows of `length` tokens with no context across windows.

    most_tokens: stop after about so many and extrapolate the bytes in proportion. routed: told each pass's routings.
    """
    model.eval()
    nats, seen = 0.0, 0
    for windows in _batches(tokens, length):
        states, routings = model.states(dense_input(model.architecture, torch.from_numpy(windows[:, :-1])))
        nats += _negative_log_likelihood(model, states, torch.from_numpy(windows[:, 1:]).flatten())
        routed(routings)
        seen += windows[:, 1:].size
        if most_tokens is not None and seen >= most_tokens:
            break
    return nats / math.log(2) / (tokens.text_bytes * seen / (len(tokens.ids) - 1))


def _batches(tokens: Tokens, length: int) -> Iterator[np.ndarray]:
    """Windows of equal length stacked, up to TOKENS together, at least one."""
    size = max(1, TOKENS // length)
    for _, same in groupby(tokens.windows(length), key=len):
        run = list(same)
        for start in range(0, len(run), size):
            yield np.stack(run[start : start + size])


def _negative_log_likelihood(model: Transformer, states: Tensor, wanted: Tensor) -> float:
    """Nats of all `wanted` ids; logits are made for some rows at a time, as a large vocabulary's fill the memory."""
    rows = max(1, LOGITS // model.architecture.vocab)
    parts = zip(states.split(rows), wanted.split(rows), strict=True)
    return sum(float(F.cross_entropy(model.project(some), ids, reduction="sum")) for some, ids in parts)
