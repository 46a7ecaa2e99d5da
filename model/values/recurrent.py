"""Recurrent mixers as values: linear attention and state spaces, which carry a state of fixed size from token to
token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from model.values.base import Norm, check, positive


@dataclass(frozen=True)
class FixedDecay:
    """Head h of H, counted from 1, keeps exp(-scale * 2^(-8 h / H)) of its state at every token (Lightning Attention,
    arXiv:2401.04658)."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(scale=self.scale)


@dataclass(frozen=True)
class LearnedDecay:
    """A head keeps exp(-rate * step) of its state: the rate is learned, the step is softplus(W x + b), one for all of
    the head (Gated DeltaNet, Mamba-2) or one for each dimension of its keys (Kimi Delta Attention).

    rank: W is a product of two matrices that meet in so many numbers. `discrete` multiplies values by the step, as when
    the equation of a state space is made discrete (Mamba-2). `bound`: exp(-bound * sigmoid(rate * (W x + b))) is kept
    instead, never less than exp(-bound) (Ling 3.0).
    """

    over: Literal["head", "key"] = "head"
    rank: int | None = None
    discrete: bool = False
    bound: float | None = None

    def __post_init__(self) -> None:
        positive(rank=self.rank, bound=self.bound)
        check(self.bound is None or not self.discrete, "discrete=true needs steps, which a decay with a bound has not")
        check(self.over == "head" or not self.discrete, "discrete=true needs over='head': values have one step a head")


Decay: TypeAlias = FixedDecay | LearnedDecay


@dataclass(frozen=True)
class Convolution:
    """Each number of queries, keys and values becomes a learned mean of its own last `width`, before their SiLU."""

    width: int = 4
    bias: bool = False

    def __post_init__(self) -> None:
        check(self.width > 1, f"width must be at least 2, got {self.width}")


@dataclass(frozen=True)
class StateGate:
    """What is read from the states is multiplied by activation(W x), after the norm or before it; rank: as of a
    decay."""

    activation: Literal["silu", "sigmoid"] = "silu"
    rank: int | None = None
    before_norm: bool = False

    def __post_init__(self) -> None:
        positive(rank=self.rank)


@dataclass(frozen=True)
class Recurrent:
    """A mixer whose heads each carry a state S (key_dim, value_dim) from token to token, in place of attention:

        S = kept * S + k (outer) u        output = q S

    What enters, u, is the value itself by the rule `add` (linear attention, arXiv:2006.16236; Mamba-2,
    arXiv:2405.21060), or by the rule `delta` strength * (v - k (kept * S)), which overwrites what the key had stored
    (arXiv:2412.06464). The delta rule takes keys and queries of length 1, these divided by the root of key_dim.

    key_heads: heads of keys and queries, each of which serves heads / key_heads states; None: as many as heads.
    norm_over: the norm of what is read goes over each head with one weight for all, over all heads of a key head with
    weights of their own, or over everything. `skip` adds the value times one learned number a head.
    """

    heads: int
    key_dim: int
    value_dim: int
    key_heads: int | None = None
    rule: Literal["add", "delta"] = "delta"
    decay: Decay = LearnedDecay()
    convolution: Convolution | None = Convolution()
    gate: StateGate | None = StateGate()
    norm: Norm | None = Norm()
    norm_over: Literal["head", "key_head", "all"] = "head"
    skip: bool = False

    def __post_init__(self) -> None:
        positive(heads=self.heads, key_dim=self.key_dim, value_dim=self.value_dim, key_heads=self.key_heads)
        check(self.heads % self.keys == 0, f"key_heads={self.keys} does not divide heads={self.heads}")
        if self.norm is not None:
            check(self.norm.kind == "rms", f"norm.kind must be rms in a recurrent mixer, got {self.norm.kind}")
            check(self.norm.weight, "norm.weight must be true in a recurrent mixer")
            check(not self.norm.bias, "norm.bias must be false in a recurrent mixer")

    @property
    def keys(self) -> int:
        """Heads of keys and queries."""
        return self.heads if self.key_heads is None else self.key_heads

    @property
    def inner(self) -> int:
        """Numbers of all values of a token, and of what is read for it."""
        return self.heads * self.value_dim

    @property
    def mixed(self) -> int:
        """Numbers of a token's queries, keys and values."""
        return 2 * self.keys * self.key_dim + self.inner

    @property
    def learned(self) -> LearnedDecay | None:
        """The decay, where it is learned."""
        return self.decay if isinstance(self.decay, LearnedDecay) else None

    @property
    def steps(self) -> int:
        """Numbers that tell how much of the states a token keeps; 0 where that is fixed."""
        if self.learned is None:
            return 0
        return self.heads * (self.key_dim if self.learned.over == "key" else 1)

    @property
    def state_numbers(self) -> int:
        """Numbers that are carried from a token to the next: states, and what the convolution looks back on."""
        looked_back = 0 if self.convolution is None else (self.convolution.width - 1) * self.mixed
        return self.heads * self.key_dim * self.value_dim + looked_back
