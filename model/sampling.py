"""From logits to tokens, a batch at a time. A row's result depends on that row alone.

Every truncation (top-k, top-p, min-p) is a threshold on the row's logits: what ties with the last token kept is kept
too, so the result does not depend on any order of equal logits. The draw inverts the cumulative distribution in
vocabulary order at one uniform number a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CANDIDATES = 256  # best tokens looked at first for top-p; a row that needs more is sorted whole
MASK = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) fixed by seed and index: two rounds of the splitmix64 finaliser, 53 bits."""
    x = (seed * 0x9E3779B97F4A7C15 + index * 0xD1342543DE82EF95) & MASK
    for _ in range(2):
        x = (x + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        x ^= x >> 31
    return (x >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Draw:
    """How each of R rows draws: temperature (0 greedy), top_k (0 off), top_p (1 off), min_p (0 off), uniform [0, 1)."""

    temperature: list[float]
    top_k: list[int]
    top_p: list[float]
    min_p: list[float]
    uniform: list[float]

    def where(self, rows: list[int]) -> Draw:
        return Draw(
            [self.temperature[i] for i in rows],
            [self.top_k[i] for i in rows],
            [self.top_p[i] for i in rows],
            [self.min_p[i] for i in rows],
            [self.uniform[i] for i in rows],
        )


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes to single logits: repetition divides what is positive and multiplies what is negative at its own (rows,
    tokens); then `bias` is added at (rows, tokens)."""

    rows: list[int]
    tokens: list[int]
    bias: list[float]
    repeated_rows: list[int]
    repeated_tokens: list[int]
    repetition: list[float]

    def __bool__(self) -> bool:
        return bool(self.rows or self.repeated_rows)


def beside(x: Tensor, numbers: Tensor) -> Tensor:
    """Numbers of the host where x is; the host does not wait for a card."""
    return numbers.pin_memory().to(x.device, non_blocking=True) if x.is_cuda else numbers


def edit(logits: Tensor, edits: Edits) -> Tensor:
    """A copy of logits (R, vocab) with the edits made; a (row, token) may occur several times in `rows`."""
    logits = logits.clone()
    if edits.repeated_rows:
        at = tuple(beside(logits, torch.tensor(x)) for x in (edits.repeated_rows, edits.repeated_tokens))
        penalty, found = beside(logits, torch.tensor(edits.repetition)), logits[at]
        logits[at] = torch.where(found > 0, found / penalty, found * penalty)
    if edits.rows:
        at = tuple(beside(logits, torch.tensor(x)) for x in (edits.rows, edits.tokens))
        logits.index_put_(at, beside(logits, torch.tensor(edits.bias)), accumulate=True)
    return logits


def bar(logits: Tensor, barred: np.ndarray) -> Tensor:
    """Logits with those of barred tokens, flags of the same shape, so low that none of them is ever drawn."""
    return logits.masked_fill(beside(logits, torch.from_numpy(barred)), float("-inf"))


def sample(logits: Tensor, draw: Draw) -> Tensor:
    """Token ids (R,) from float32 logits (R, vocab)."""
    tokens = logits.argmax(-1)
    drawn = [i for i, temperature in enumerate(draw.temperature) if temperature > 0]
    if not drawn:
        return tokens
    index = beside(logits, torch.tensor(drawn))
    tokens[index] = _draw(logits[index], draw.where(drawn))
    return tokens


def _draw(logits: Tensor, draw: Draw) -> Tensor:
    logits = logits.double()
    temperature = beside(logits, torch.tensor(draw.temperature, dtype=torch.double))
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature[:, None]
    cut = [i for i in range(len(logits)) if draw.top_k[i] > 0 or draw.top_p[i] < 1 or draw.min_p[i] > 0]
    if cut:
        rows = beside(logits, torch.tensor(cut))
        kept = logits[rows]
        logits[rows] = kept.masked_fill(kept < thresholds(kept, draw.where(cut))[:, None], float("-inf"))
    cumulative = logits.exp().cumsum(-1)
    total = cumulative[:, -1:]
    uniform = beside(logits, torch.tensor(draw.uniform, dtype=torch.double))
    target = torch.minimum(uniform[:, None] * total, total.nextafter(-total))
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def thresholds(logits: Tensor, draw: Draw) -> Tensor:
    """The least logit each row keeps (R,), from logits whose maximum is 0; top-k first, top-p among its survivors."""
    vocab = logits.shape[-1]
    top_k = beside(logits, torch.tensor([min(k, vocab) if k > 0 else vocab for k in draw.top_k]))
    top_p = beside(logits, torch.tensor(draw.top_p, dtype=torch.double))
    floor = torch.tensor([math.log(p) if p > 0 else -math.inf for p in draw.min_p], dtype=torch.double)
    # On a card sorting every row takes less time than asking whether it must be.
    largest = vocab if logits.is_cuda else max([CANDIDATES, *(k for k in draw.top_k if k < vocab)])
    best = logits.topk(min(vocab, largest), dim=-1).values
    found, enough = _nucleus(logits, best, top_k, top_p)
    if largest < vocab and not bool(enough.all()):
        short = ~enough
        found[short] = _nucleus(
            logits[short], logits[short].sort(-1, descending=True).values, top_k[short], top_p[short]
        )[0]
    return torch.maximum(found, beside(logits, floor))


def _nucleus(logits: Tensor, best: Tensor, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """(threshold, whether `best`, the largest logits in order, reached far enough to know it)."""
    reach = best.shape[-1]
    last = best.gather(-1, (top_k.clamp(max=reach) - 1)[:, None])
    limited = top_k <= reach
    last = last.masked_fill(~limited[:, None], float("-inf"))
    mass = logits.masked_fill(logits < last, float("-inf")).exp().sum(-1, keepdim=True)
    shares = best.masked_fill(best < last, float("-inf")).exp() / mass
    before = shares.cumsum(-1) - shares
    inside = ((before < top_p[:, None]) & (shares > 0)).sum(-1).clamp(min=1)
    threshold = torch.where(top_p < 1, best.gather(-1, inside[:, None] - 1).squeeze(-1), last.squeeze(-1))
    whole = reach == logits.shape[-1]
    enough = limited | (top_p >= 1) | (inside < reach) | torch.tensor(whole)
    return threshold, enough


def log_probabilities(logits: Tensor, tokens: Tensor, best: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Natural-log probability of `tokens` (R,), how many tokens are likelier (R,), ids (R, best) and log-probabilities
    (R, best) of the most likely."""
    logs = logits.log_softmax(-1)
    values, ids = logs.topk(best, dim=-1)
    own = logs.gather(-1, tokens[:, None])
    return own.squeeze(-1), (logs > own).sum(-1), ids, values
