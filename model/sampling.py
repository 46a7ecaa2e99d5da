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
import torch.nn.functional as F
from torch import Tensor

from model.kernels import rows

RUN = 128  # weights that are summed before one of them is looked for
COLDEST = 1e-30  # float32 can divide by it; whatever is colder draws the best as well
CANDIDATES = 256  # best tokens looked at first for top-p
FURTHER = 8  # times as many are looked at next, for the rows that need more
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

    rows: np.ndarray  # int64, as all rows and tokens
    tokens: np.ndarray
    bias: np.ndarray  # float32, as `repetition`
    repeated_rows: np.ndarray
    repeated_tokens: np.ndarray
    repetition: np.ndarray

    def __bool__(self) -> bool:
        return len(self.rows) > 0 or len(self.repeated_rows) > 0


def beside(x: Tensor, numbers: Tensor) -> Tensor:
    """The host's `numbers` on the device of x; the host does not wait for a GPU."""
    return numbers.pin_memory().to(x.device, non_blocking=True) if x.is_cuda else numbers


def edit(logits: Tensor, edits: Edits) -> Tensor:
    """A copy of logits (R, vocab) with the edits made; a (row, token) may occur several times in `rows`."""
    logits = logits.clone()
    if len(edits.repeated_rows):
        at = tuple(beside(logits, torch.from_numpy(x)) for x in (edits.repeated_rows, edits.repeated_tokens))
        penalty, found = beside(logits, torch.from_numpy(edits.repetition)), logits[at]
        logits[at] = torch.where(found > 0, found / penalty, found * penalty)
    if len(edits.rows):
        at = tuple(beside(logits, torch.from_numpy(x)) for x in (edits.rows, edits.tokens))
        logits.index_put_(at, beside(logits, torch.from_numpy(edits.bias)), accumulate=True)
    return logits


def bar(logits: Tensor, barred: np.ndarray) -> Tensor:
    """Logits with those of barred tokens, flags of the same shape, so low that none of them is ever drawn."""
    return logits.masked_fill(beside(logits, torch.from_numpy(barred)), float("-inf"))


def sample(logits: Tensor, draw: Draw) -> Tensor:
    """Token ids (R,) from float32 logits (R, vocab)."""
    drawn = [i for i, temperature in enumerate(draw.temperature) if temperature > 0]
    if len(drawn) == len(draw.temperature):
        return _draw(logits, draw)
    tokens = rows.argmax(logits)
    if drawn:
        index = beside(logits, torch.tensor(drawn))
        tokens[index] = _draw(logits[index], draw.where(drawn))
    return tokens


def _draw(logits: Tensor, draw: Draw) -> Tensor:
    temperature = beside(logits, torch.tensor([max(COLDEST, t) for t in draw.temperature]))
    logits = (logits - logits.amax(-1, keepdim=True)).div_(temperature[:, None])
    cut = [i for i in range(len(logits)) if draw.top_k[i] > 0 or draw.top_p[i] < 1 or draw.min_p[i] > 0]
    weights = logits.exp() if cut else logits.exp_()
    if len(cut) == len(logits):
        weights *= logits >= thresholds(logits, draw)[:, None]
    elif cut:
        some = beside(logits, torch.tensor(cut))
        weights[some] *= logits[some] >= thresholds(logits[some], draw.where(cut))[:, None]
    return _invert(weights, beside(logits, torch.tensor(draw.uniform, dtype=torch.double)))


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The index at which the sum of weights (R, vocab) from the first on exceeds `uniform` (R,) of the whole.

    Sums of runs of weights come first, and only the run in which it happens is looked at one by one.
    """
    tail = -weights.shape[-1] % RUN
    runs = (F.pad(weights, (0, tail)) if tail else weights).view(len(weights), -1, RUN)
    sums = runs.sum(-1, dtype=torch.double)
    run, target = _exceeding(sums, uniform[:, None] * sums.sum(-1, keepdim=True))
    chosen = runs.gather(1, run[..., None].expand(-1, -1, RUN)).squeeze(1).double()
    return (run * RUN + _exceeding(chosen, target)[0]).squeeze(-1)


def _exceeding(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sum of weights (R, n) from the first on exceeds target (R, 1), always at a weight above 0, and how much
    of the target is left there."""
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    target = torch.minimum(target.clamp(min=0), total.nextafter(-total))
    index = torch.searchsorted(sums, target, right=True)
    return index, target - sums.gather(-1, index) + weights.gather(-1, index)


def thresholds(logits: Tensor, draw: Draw) -> Tensor:
    """The least logit each row keeps (R,), from logits whose maximum is 0; top-k first, top-p among its survivors."""
    vocab = logits.shape[-1]
    top_k = beside(logits, torch.tensor([min(k, vocab) if k > 0 else vocab for k in draw.top_k]))
    top_p = beside(logits, torch.tensor(draw.top_p, dtype=torch.double))
    floor = torch.tensor([math.log(p) if p > 0 else -math.inf for p in draw.min_p], dtype=torch.double)
    # On a GPU sorting every row takes less time than asking whether it must be.
    reach = vocab if logits.is_cuda else min(vocab, max([CANDIDATES, *(k for k in draw.top_k if k < vocab)]))
    found, enough = _nucleus(logits, rows.largest(logits, reach), top_k, top_p)
    while reach < vocab and not bool(enough.all()):
        reach = min(vocab, reach * FURTHER)
        short = (~enough).nonzero().squeeze(-1)
        some = logits[short]
        found[short], enough[short] = _nucleus(some, rows.largest(some, reach), top_k[short], top_p[short])
    return torch.maximum(found, beside(logits, floor).to(found.dtype))


def _nucleus(logits: Tensor, best: Tensor, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """(threshold, whether `best`, the largest logits in order, reached far enough to know it)."""
    reach = best.shape[-1]
    last = best.gather(-1, (top_k.clamp(max=reach) - 1)[:, None])
    limited = top_k <= reach
    last = last.masked_fill(~limited[:, None], float("-inf"))
    mass = (logits.exp() * (logits >= last)).sum(-1, keepdim=True, dtype=torch.double)
    shares = best.masked_fill(best < last, float("-inf")).double().exp() / mass
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
