"""Feed-forwards, routers and mixtures of experts as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from model.values.base import Norm, check, positive, within


@dataclass(frozen=True)
class ClampedGate:
    """gpt-oss: gate <= limit, |up| <= limit, (up + 1) * gate * sigmoid(slope * gate)."""

    limit: float = 7.0
    slope: float = 1.702

    def __post_init__(self) -> None:
        positive(limit=self.limit, slope=self.slope)


Activation: TypeAlias = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu"]


@dataclass(frozen=True)
class FeedForward:
    """down(act(up x)), or gated (arXiv:2002.05202): down(act(gate x) * up x)."""

    hidden: int
    activation: Activation | ClampedGate = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        positive(hidden=self.hidden)
        check(self.gated or not isinstance(self.activation, ClampedGate), "activation clamped_gate needs gated=true")


@dataclass(frozen=True)
class Groups:
    """Group-limited choice (arXiv:2405.04434): only experts of the `kept` best of `count` groups may be chosen."""

    count: int
    kept: int
    score: Literal["max", "top2"] = "top2"

    def __post_init__(self) -> None:
        positive(count=self.count, kept=self.kept)
        check(self.kept <= self.count, f"kept={self.kept} exceeds count={self.count}")


@dataclass(frozen=True)
class Capacity:
    """Switch (arXiv:2101.03961): of one sequence an expert takes int(factor * tokens / experts) tokens, in order.

    `tokens` is the sequence length the capacity is meant for; a token over capacity keeps only its residual.
    """

    factor: float
    tokens: int

    def __post_init__(self) -> None:
        positive(factor=self.factor, tokens=self.tokens)

    def per_expert(self, experts: int) -> int:
        return int(self.factor * self.tokens / experts)


@dataclass(frozen=True)
class RouterLoss:
    """What training adds for the router: balance loss (Switch eq. 4), z-loss (arXiv:2202.08906), input jitter, and the
    step of the correction bias (arXiv:2408.15664)."""

    balance: float = 0.0
    z: float = 0.0
    jitter: float = 0.0
    bias_step: float = 0.001

    def __post_init__(self) -> None:
        within(low=0, balance=self.balance, z=self.z, bias_step=self.bias_step)
        within(0, 1, jitter=self.jitter)


@dataclass(frozen=True)
class SparseMixer:
    """Phi-3.5-MoE (arXiv:2409.12136): experts are chosen one after another; a gate is the softmax over the logits that
    are not yet taken and lie within `tolerance` of the best, relative to the larger of best and own size."""

    tolerance: float = 0.02

    def __post_init__(self) -> None:
        positive(tolerance=self.tolerance)


@dataclass(frozen=True)
class Router:
    """Scores every expert for a token and chooses the best few.

    `normalise` makes the chosen weights sum to one; `correction` adds a bias that selects but does not weigh;
    `expert_gain` multiplies each expert's weight by one learned number; `norm` acts on what the router sees.
    """

    score: Literal["softmax", "sigmoid", "sqrtsoftplus"] | SparseMixer = "softmax"
    normalise: bool = True
    scale: float = 1.0
    bias: bool = False
    correction: bool = False
    expert_gain: bool = False
    norm: Norm | None = None
    groups: Groups | None = None
    capacity: Capacity | None = None
    loss: RouterLoss = RouterLoss()

    def __post_init__(self) -> None:
        positive(scale=self.scale)
        check(
            isinstance(self.score, str) or not (self.correction or self.groups),
            "score of type sparse_mixer goes with neither correction nor groups",
        )


@dataclass(frozen=True)
class MoE:
    """A mixture of experts: `active` of `experts` run for a token, `shared` runs for every token."""

    experts: int
    active: int
    expert: FeedForward
    router: Router = Router()
    shared: FeedForward | None = None
    shared_gate: bool = False
    weigh: Literal["output", "input"] = "output"

    def __post_init__(self) -> None:
        positive(experts=self.experts, active=self.active)
        check(self.active <= self.experts, f"active={self.active} exceeds experts={self.experts}")
        check(self.shared is not None or not self.shared_gate, "shared_gate=true needs a shared expert")
        groups = self.router.groups
        if groups is not None:
            check(
                self.experts % groups.count == 0, f"groups.count={groups.count} does not divide experts={self.experts}"
            )
            reachable = self.experts // groups.count * groups.kept
            check(
                self.active <= reachable,
                f"active={self.active} exceeds the {reachable} experts of the groups.kept={groups.kept} groups",
            )
        if self.router.capacity is not None:
            kept = self.router.capacity.per_expert(self.experts)
            check(kept > 0, f"capacity of experts={self.experts} rounds to {kept} tokens")


@dataclass(frozen=True)
class Beside:
    """A feed-forward and a mixture beside each other as one branch, each between two norms of its own (Gemma 4).

    The block puts no norm before this branch: its parts norm the residual stream themselves, and the router sees it as
    it is.
    """

    dense: FeedForward
    mixture: MoE
    norm: Norm = Norm()
