"""Attention as values: spans, heads, what is done to scores and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from model.values.base import Norm, check, positive, within
from model.values.position import Alibi, Buckets, Rotary


@dataclass(frozen=True)
class Full:
    """A query sees every position up to its own."""

    def first_visible(self, position: int) -> int:
        """The first position that a query at this one sees."""
        return 0

    def reach(self, length: int) -> int:
        """How many of `length` positions are ever looked back on."""
        return length


@dataclass(frozen=True)
class Window:
    """A query sees `size` positions, its own included."""

    size: int

    def __post_init__(self) -> None:
        positive(size=self.size)

    def first_visible(self, position: int) -> int:
        return max(0, position - self.size + 1)

    def reach(self, length: int) -> int:
        return min(length, self.size)


@dataclass(frozen=True)
class Chunk:
    """A query sees its own chunk of `size` positions, up to itself."""

    size: int

    def __post_init__(self) -> None:
        positive(size=self.size)

    def first_visible(self, position: int) -> int:
        return position // self.size * self.size

    def reach(self, length: int) -> int:
        return min(length, self.size)


Span: TypeAlias = Full | Window | Chunk


# ---------------------------------------------------------------------------------------------- attention


@dataclass(frozen=True)
class QKNorm:
    """A norm on queries and keys, before or after the rotation: over each head with one weight for all (`head`) or a
    weight for each (`each`), or over the whole projected width."""

    norm: Norm = Norm()
    over: Literal["head", "each", "width"] = "head"
    after_rotation: bool = False


@dataclass(frozen=True)
class Grouped:
    """Grouped-query heads (arXiv:2305.13245): kv == query is multi-head, kv == 1 is multi-query.

    `clip` c holds the projections within -c and c; `shared_value`: the key projection's output serves as value too.
    """

    query: int
    kv: int
    dim: int
    bias: bool = False
    qk_norm: QKNorm | None = None
    clip: float | None = None
    shared_value: bool = False
    value_norm: Norm | None = None

    def __post_init__(self) -> None:
        positive(query=self.query, kv=self.kv, dim=self.dim, clip=self.clip)
        check(self.query % self.kv == 0, f"kv={self.kv} does not divide query={self.query}")


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (arXiv:2405.04434): a token stores one latent and one rotary key.

    A head's query and key have `plain_dim` dimensions without and `rotary_dim` with rotation, its value `value_dim`.
    """

    query: int
    kv_rank: int
    plain_dim: int
    rotary_dim: int
    value_dim: int
    query_rank: int | None = None
    norm: Norm = Norm(eps=1e-6)
    bias: bool = False

    def __post_init__(self) -> None:
        positive(query=self.query, kv_rank=self.kv_rank, plain_dim=self.plain_dim, value_dim=self.value_dim)
        check(self.rotary_dim >= 0, f"rotary_dim must not be negative, got {self.rotary_dim}")
        positive(query_rank=self.query_rank)

    @property
    def dim(self) -> int:
        return self.plain_dim + self.rotary_dim


@dataclass(frozen=True)
class Temperature:
    """Queries grow with position: q *= 1 + weight * ln(1 + floor((i + offset) / floor)), with an offset of 1 (Llama 4)
    or 0 (Mistral 4)."""

    floor: float
    weight: float
    offset: int = 1

    def __post_init__(self) -> None:
        positive(floor=self.floor)
        check(self.offset >= 0, f"offset must not be negative, got {self.offset}")
        within(weight=self.weight)


@dataclass(frozen=True)
class OutputGate:
    """A sigmoid gate on the attention output, computed from the branch's input; `bias` is one number a head."""

    over: Literal["head", "element"] = "head"
    bias: bool = False


@dataclass(frozen=True)
class Indexer:
    """Learned sparse selection (DeepSeek-V3.2): small heads score all visible keys, the best `top_k` are attended."""

    heads: int
    dim: int
    top_k: int

    def __post_init__(self) -> None:
        positive(heads=self.heads, dim=self.dim, top_k=self.top_k)


class _Scaled:
    heads: Grouped | Latent
    scale: float | None

    @property
    def softmax_scale(self) -> float:
        return self.heads.dim**-0.5 if self.scale is None else self.scale


@dataclass(frozen=True)
class Attention(_Scaled):
    """A self-attention branch. `scale` None means head dimension ** -0.5.

    `softcap` c bounds the scores by c * tanh(x / c); `sinks`: each head's softmax has one more, learned score.
    """

    heads: Grouped | Latent
    position: Rotary | Alibi | Buckets | None = None
    span: Span = Full()
    scale: float | None = None
    softcap: float | None = None
    sinks: bool = False
    temperature: Temperature | None = None
    gate: OutputGate | None = None
    out_bias: bool = False
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        check(
            self.indexer is None or (isinstance(self.heads, Latent) and self.heads.query_rank is not None),
            "indexer needs latent heads with a query_rank",
        )
        positive(scale=self.scale, softcap=self.softcap)
        if isinstance(self.position, Rotary):
            dim = self.heads.rotary_dim if isinstance(self.heads, Latent) else self.heads.dim
            turned = self.position.rotated(dim)
            check(
                0 < turned <= dim,
                f"fraction={self.position.fraction} of dim={dim} rotates {turned} dimensions; it must be 2 to {dim}",
            )
            if self.indexer is not None:
                wide = self.indexer.dim
                check(turned <= wide, f"indexer.dim={wide} must be at least {turned}, as many dimensions as rotate")


@dataclass(frozen=True)
class CrossAttention(_Scaled):
    """Attention from the sequence to a memory: an encoder's output, or states of an image. Nothing is causal in it."""

    heads: Grouped
    scale: float | None = None
    out_bias: bool = False

    def __post_init__(self) -> None:
        heads = self.heads
        positive(scale=self.scale)
        check(heads.qk_norm is None or heads.qk_norm.over == "head", "a cross_attention norms its heads one by one")
        plain = heads.clip is None and heads.value_norm is None and not heads.shared_value
        check(plain, "a cross_attention has neither clip nor value_norm nor shared_value")
