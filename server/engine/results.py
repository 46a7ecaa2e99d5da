"""What came of a step: tensors where the model is, then, all fetched at once, tokens, log-probabilities and routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import sampling
from model.kernels import rows
from model.moe import Routing
from model.routing import PAD
from model.transformer import StepOutput
from server.engine.request import Routes, TokenLogprobs

SCORED_AT_ONCE = 64  # rows of logits: a long prompt that is scored needs no second copy of all its logits


@dataclass(frozen=True, slots=True)
class Scored:
    """For some picks that asked: log-probability of the token, how many are likelier, ids and values of the best."""

    own: Tensor
    above: Tensor
    ids: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Drawn:
    """What follows each pick: tokens (picks,), None where there are none, and `scored` for those that asked."""

    tokens: Tensor | None = None
    scored: tuple[Scored, ...] = ()

    def told(self, counts: Sequence[int | None]) -> tuple[tuple[int, ...], tuple[TokenLogprobs | None, ...]]:
        """Tokens, and of a pick that asked for so many (None: asked for nothing) its log-probabilities."""
        if self.tokens is None:
            return (), ()
        found: list[TokenLogprobs | None] = [None] * len(counts)
        asked = iter([(i, count) for i, count in enumerate(counts) if count is not None])
        for some in self.scored:
            told = zip(some.own.tolist(), some.above.tolist(), some.ids.tolist(), some.values.tolist(), strict=True)
            for own, likelier, best, logs in told:
                i, count = next(asked)
                found[i] = TokenLogprobs(own, tuple(zip(best[:count], logs[:count], strict=True)), likelier + 1)
        return tuple(self.tokens.tolist()), tuple(found)


def scored(logits: Tensor, tokens: Tensor, counts: Sequence[int | None]) -> tuple[Scored, ...]:
    """Log-probabilities for the rows of logits that ask, a few rows at a time."""
    asked = [(i, count) for i, count in enumerate(counts) if count is not None]
    parts = (asked[first : first + SCORED_AT_ONCE] for first in range(0, len(asked), SCORED_AT_ONCE))
    return tuple(_scored(logits, tokens, part) for part in parts)


def _scored(logits: Tensor, tokens: Tensor, asked: list[tuple[int, int]]) -> Scored:
    index = sampling.beside(logits, torch.tensor([i for i, _ in asked]))
    return Scored(*sampling.log_probabilities(logits[index], tokens[index], max(count for _, count in asked)))


@dataclass(frozen=True, slots=True)
class Routed:
    """Routes as tensors: experts int16 and gates float32 (T, layers, most top-k), margins float32 (T, layers)."""

    experts: Tensor
    gates: Tensor
    margins: Tensor

    @classmethod
    def of(cls, routings: tuple[Routing, ...]) -> Routed | None:
        """Every token's routes, layers of smaller top-k padded; None for a model without experts."""
        if not routings:
            return None
        most = max(routing.experts.shape[1] for routing in routings)
        if all(routing.experts.shape[1] == most for routing in routings):
            experts = torch.stack([r.experts for r in routings], dim=1).to(torch.int16)
            gates = torch.stack([r.gates for r in routings], dim=1).float()
            ranked = torch.stack([r.ranked for r in routings], dim=1)
            return cls(experts, gates, (ranked[..., -2] - ranked[..., -1]).float())
        widths = [(0, most - routing.experts.shape[1]) for routing in routings]
        pairs = list(zip(routings, widths, strict=True))
        experts = torch.stack([F.pad(r.experts.to(torch.int16), w, value=int(PAD)) for r, w in pairs], dim=1)
        gates = torch.stack([F.pad(r.gates.float(), w) for r, w in pairs], dim=1)
        margins = torch.stack([(r.ranked[:, -2] - r.ranked[:, -1]).float() for r in routings], dim=1)
        return cls(experts, gates, margins)

    def first(self, count: int) -> Routed:
        """Those of the first tokens."""
        return Routed(self.experts[:count], self.gates[:count], self.margins[:count])

    def told(self) -> Routes:
        """What is no number (its request fails) is told as 0, so that no sum over requests is spoilt by it."""
        gates, margins = self.gates.numpy(), self.margins.numpy()
        if not np.isfinite(margins.sum()):
            gates, margins = (np.nan_to_num(column, posinf=0, neginf=0) for column in (gates, margins))
        return Routes(self.experts.numpy(), gates, margins)


@dataclass(frozen=True, slots=True)
class Computed:
    """What every step wants of a forward pass: logits (R, vocab) of the tokens that have some, finite (R,) whether they
    are numbers, best (R,) the likeliest tokens, and every token's routes."""

    logits: Tensor
    finite: Tensor
    best: Tensor
    routed: Routed | None

    @classmethod
    def of(cls, out: StepOutput, vocab: int) -> Computed:
        """vocab: how many of the logits have a token."""
        logits = out.logits[:, :vocab]
        return cls(logits, *rows.look(logits), Routed.of(out.routings))

    def first(self, count: int) -> Computed:
        """That of the first tokens, all of which have logits."""
        routed = None if self.routed is None else self.routed.first(count)
        return Computed(self.logits[:count], self.finite[:count], self.best[:count], routed)

    def of_rows(self, index: Tensor) -> Computed:
        """With the logits of some tokens only."""
        return Computed(self.logits[index], self.finite[index], self.best[index], self.routed)
