"""Mixture of experts: a router chooses, tokens are grouped by expert, each expert runs once on its group.

Shape letters: T tokens, E experts, k chosen experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import config
from model.feedforward import FeedForward, activate
from model.norm import build_norm


@dataclass(frozen=True, slots=True)
class Routing:
    """What a router decided: experts (T, k) int64 in order of choice, ~id where the expert had no room; gates (T, k)
    their weights; logits (T, E) float32 as scored; ranked (T, k + 1) what the choice was made by: the chosen in order,
    then the best that was not, 0 where there was none to choose."""

    experts: Tensor
    gates: Tensor
    logits: Tensor
    ranked: Tensor


@dataclass(frozen=True, slots=True)
class Loads:
    """For routers with a capacity: sequence (T,) the sequence of each token, prior (layers, sequences, E) how many
    earlier tokens of each sequence chose each expert."""

    sequence: Tensor
    prior: Tensor


class Router(nn.Module):
    """forward(x (T, width)) → Routing, before any capacity is applied."""

    def __init__(self, value: config.MoE, width: int) -> None:
        super().__init__()
        self.value = value
        self.weight = nn.Parameter(torch.empty(value.experts, width))
        self.bias = nn.Parameter(torch.zeros(value.experts)) if value.router.bias else None
        self.gain = nn.Parameter(torch.zeros(value.experts)) if value.router.expert_gain else None  # acts as 1 + gain
        self.norm = build_norm(value.router.norm, width)
        nn.init.normal_(self.weight, std=width**-0.5)
        self.correction: Tensor | None
        self.register_buffer("correction", torch.zeros(value.experts) if value.router.correction else None)

    def forward(self, x: Tensor) -> Routing:
        value = self.value.router
        logits = self.scores(self.norm(self._jittered(x)).float())
        experts, gates, ranked = self._choose(logits)
        if value.normalise:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        if self.gain is not None:
            gates = gates * (1 + self.gain.float())[experts]
        return Routing(experts, gates * value.scale, logits, ranked)

    def scores(self, x: Tensor) -> Tensor:
        """x (T, width) → logits (T, E), both float32, also where training multiplies other matrices in bfloat16."""
        if x.is_cpu and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self._scores(x)
        return self._scores(x)

    def _scores(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float(), None if self.bias is None else self.bias.float())

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """logits (T, E) → experts and their scores, both (T, k), and what the choice was made by (T, k + 1)."""
        value = self.value.router
        if isinstance(value.score, config.SparseMixer):
            return *mix_sparsely(logits, self.value.active, value.score.tolerance), self._rank(logits)[1]
        scores = _score(value.score, logits)
        choice = scores if self.correction is None else scores + self.correction.float()
        if value.groups is not None:
            choice = limit_to_groups(choice, value.groups)
        experts, ranked = self._rank(choice)
        if value.groups is not None:
            ranked = ranked.nan_to_num(neginf=0.0)
        return experts, scores.gather(-1, experts), ranked

    def _rank(self, choice: Tensor) -> tuple[Tensor, Tensor]:
        """choice (T, E) → the best experts (T, k), and what they and the next one have (T, k + 1)."""
        active = self.value.active
        if active == self.value.experts:
            best = choice.topk(active, dim=-1)
            return best.indices, F.pad(best.values, (0, 1))
        best = choice.topk(active + 1, dim=-1)
        return best.indices[:, :active], best.values

    def _jittered(self, x: Tensor) -> Tensor:
        jitter = self.value.router.loss.jitter
        if not self.training or not jitter:
            return x
        return x * torch.empty_like(x).uniform_(1 - jitter, 1 + jitter)


def _score(kind: str, logits: Tensor) -> Tensor:
    if kind == "softmax":
        return logits.softmax(-1)
    return logits.sigmoid() if kind == "sigmoid" else F.softplus(logits).sqrt()


def mix_sparsely(logits: Tensor, active: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Experts one after another, each weighed among those near it (config.SparseMixer); logits (T, E) → two (T, k)."""
    experts, gates, left = [], [], logits
    for _ in range(active):
        best, expert = left.max(-1, keepdim=True)
        far = (best - logits) / logits.abs().clamp(min=best) > tolerance
        gates.append(left.masked_fill(far, float("-inf")).softmax(-1).gather(-1, expert))
        experts.append(expert)
        left = left.scatter(-1, expert, float("-inf"))
    return torch.cat(experts, -1), torch.cat(gates, -1)


def limit_to_groups(choice: Tensor, groups: config.Groups) -> Tensor:
    """-inf for every expert outside the best `kept` groups of its token; choice (T, E)."""
    grouped: Tensor = choice.unflatten(-1, (groups.count, -1))
    worth = (
        grouped.amax(-1) if groups.score == "max" else grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
    )
    kept = torch.zeros_like(worth, dtype=torch.bool).scatter_(-1, worth.topk(groups.kept, dim=-1).indices, True)
    return grouped.masked_fill(~kept[..., None], float("-inf")).flatten(-2)


def drop_over_capacity(experts: Tensor, capacity: int, sequence: Tensor, prior: Tensor) -> Tensor:
    """Mark with ~id the choices that come after an expert's first `capacity` ones of the same sequence.

    experts (T, k), sequence (T,) sorted, prior (sequences, E): choices made by earlier tokens. Tokens are in order.
    """
    chosen = F.one_hot(experts, prior.shape[-1]).sum(1)  # T E
    before = chosen.cumsum(0) - chosen
    first = torch.searchsorted(sequence, torch.arange(len(prior), device=sequence.device))
    start = before[first.clamp(max=len(before) - 1)]
    rank = before - start[sequence] + prior[sequence]
    return torch.where(rank.gather(1, experts) < capacity, experts, ~experts)


class ExpertStack(nn.Module):
    """`count` feed-forwards of one shape. forward(x (n, width), expert) → (n, width): one of them on its tokens."""

    def __init__(self, value: config.FeedForward, count: int) -> None:
        super().__init__()
        self.value, self.count = value, count

    def mix(self, x: Tensor, routing: Routing, weigh: str) -> Tensor:
        """x (T, width) → (T, width): group choices by expert, run each touched expert once, weigh and add in order of
        choice."""
        tokens, active = routing.experts.shape
        experts = torch.where(routing.experts < 0, self.count, routing.experts).flatten()
        order = experts.argsort(stable=True)
        gates = routing.gates.to(x.dtype)
        rows = x[order // active]
        if weigh == "input":
            rows = rows * gates.flatten()[order, None]
        outputs = self.each(rows, experts, order)
        placed = torch.empty_like(rows).index_copy(0, order, outputs).view(tokens, active, -1)
        if weigh == "output":
            placed = placed * gates[..., None]
        return placed.sum(1)

    def each(self, rows: Tensor, experts: Tensor, order: Tensor) -> Tensor:
        """Run every expert on its rows: rows (n, width) sorted by `order`, their experts (n,) unsorted → (n, width).

        Expert `count` stands for none, and gives 0.
        """
        counts = torch.bincount(experts, minlength=self.count + 1).tolist()
        groups = enumerate(rows.split(counts))
        return torch.cat([self(group, i) if i < self.count else group * 0 for i, group in groups if len(group)])


class Experts(ExpertStack):
    """Experts whose weights are stacked: up (E, rows, width), down (E, width, hidden)."""

    def __init__(self, value: config.FeedForward, count: int, width: int) -> None:
        super().__init__(value, count)
        rows = value.hidden * (2 if value.gated else 1)
        self.up = nn.Parameter(torch.empty(count, rows, width))
        self.down = nn.Parameter(torch.empty(count, width, value.hidden))
        self.up_bias = nn.Parameter(torch.zeros(count, rows)) if value.bias else None
        self.down_bias = nn.Parameter(torch.zeros(count, width)) if value.bias else None
        nn.init.normal_(self.up, std=width**-0.5)
        nn.init.normal_(self.down, std=value.hidden**-0.5)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """One expert on its tokens (n, width) → (n, width)."""
        hidden = F.linear(x, self.up[expert], None if self.up_bias is None else self.up_bias[expert])
        bias = None if self.down_bias is None else self.down_bias[expert]
        return F.linear(activate(self.value, hidden), self.down[expert], bias)


class MoE(nn.Module):
    """forward(x (T, width), loads) → (T, width) and the routing; `routed` is what the router sees where it is not x."""

    def __init__(self, value: config.MoE, width: int, layer: int) -> None:
        super().__init__()
        self.value, self.layer = value, layer
        self.router = Router(value, width)
        self.experts: ExpertStack = Experts(value.expert, value.experts, width)
        self.shared: nn.Module | None = FeedForward(value.shared, width) if value.shared else None
        self.shared_gate = nn.Linear(width, 1, bias=False) if value.shared_gate else None

    def forward(self, x: Tensor, loads: Loads | None, routed: Tensor | None = None) -> tuple[Tensor, Routing]:
        routing = self.router(x if routed is None else routed)
        capacity = self.value.router.capacity
        if capacity is not None:
            assert loads is not None, "a router with a capacity needs the loads of its sequences"
            limit = capacity.per_expert(self.value.experts)
            kept = drop_over_capacity(routing.experts, limit, loads.sequence, loads.prior[self.layer])
            routing = Routing(kept, routing.gates * (kept >= 0), routing.logits, routing.ranked)
        y = self.experts.mix(x, routing, self.value.weigh)
        return (y if self.shared is None else y + self.share(x)), routing

    def share(self, x: Tensor) -> Tensor:
        """The output of the shared experts, x (T, width) → (T, width), times their gate where there is one."""
        assert self.shared is not None
        y: Tensor = self.shared(x)
        return y if self.shared_gate is None else y * torch.sigmoid(self.shared_gate(x))


class Beside(nn.Module):
    """A feed-forward and a mixture beside each other: forward(x (T, width), loads) → (T, width) and the routing."""

    def __init__(self, value: config.Beside, width: int, layer: int) -> None:
        super().__init__()
        self.dense: nn.Module = FeedForward(value.dense, width)
        self.mixture = MoE(value.mixture, width, layer)
        self.norms_before, self.norms_after = (
            nn.ModuleList(build_norm(value.norm, width) for _ in range(2)) for _ in range(2)
        )

    def forward(self, x: Tensor, loads: Loads | None) -> tuple[Tensor, Routing]:
        dense = self.dense(self.norms_before[0](x))
        mixed, routing = self.mixture(self.norms_before[1](x), loads, x)
        return self.norms_after[0](dense) + self.norms_after[1](mixed), routing
