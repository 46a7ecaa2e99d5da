"""What an architecture is, as frozen values. No torch here.

A model is a tuple of blocks; a block is a tuple of residual branches (attention, feed-forward, mixture of experts), in
series or in parallel. Layers differ by holding different values. Every value checks itself when it is built and raises
`ConfigError` with the names and the numbers that disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias


class ConfigError(ValueError):
    """A value of an architecture contradicts itself or another; the message has the field and the numbers."""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def positive(**numbers: float) -> None:
    for name, number in numbers.items():
        check(number > 0, f"{name} must be positive, got {number}")


@dataclass(frozen=True)
class Norm:
    """RMS norm (arXiv:1910.07467) or layer norm (arXiv:1607.06450). A stored weight w acts as `offset + w`."""

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    weight: bool = True
    bias: bool = False
    offset: float = 0.0

    def __post_init__(self) -> None:
        positive(eps=self.eps)


# ---------------------------------------------------------------------------------------------- positions


@dataclass(frozen=True)
class LinearScaling:
    """Positions are divided by `factor` (arXiv:2306.15595)."""

    factor: float

    def __post_init__(self) -> None:
        positive(factor=self.factor)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071). `magnitude` multiplies cosine and sine; None means 0.1 ln(factor) + 1."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        positive(factor=self.factor, original_context=self.original_context)
        check(
            self.beta_fast >= self.beta_slow,
            f"beta_fast={self.beta_fast} must not be below beta_slow={self.beta_slow}",
        )


@dataclass(frozen=True)
class Llama3Scaling:
    """Long wavelengths divided by `factor`, short ones kept, a blend between (arXiv:2407.21783)."""

    factor: float
    original_context: int
    low_frequency: float = 1.0
    high_frequency: float = 4.0

    def __post_init__(self) -> None:
        positive(factor=self.factor, original_context=self.original_context)
        check(
            self.high_frequency > self.low_frequency,
            f"high_frequency={self.high_frequency} must be above low_frequency={self.low_frequency}",
        )


@dataclass(frozen=True)
class ProportionalScaling:
    """Frequencies are spread over the whole head, and only the first `fraction` of its pairs turn (Gemma 4)."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        positive(factor=self.factor)


Scaling: TypeAlias = LinearScaling | YarnScaling | Llama3Scaling | ProportionalScaling


@dataclass(frozen=True)
class Rotary:
    """RoPE (arXiv:2104.09864) on the first `fraction` of each head.

    `half` pairs dimension i with i + n/2 (the layout of Hugging Face checkpoints), `interleaved` pairs 2i with 2i + 1.
    """

    theta: float = 10000.0
    fraction: float = 1.0
    layout: Literal["half", "interleaved"] = "half"
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        positive(theta=self.theta)
        check(0 < self.fraction <= 1, f"fraction must be in (0, 1], got {self.fraction}")

    def counted(self, dim: int) -> int:
        """Over how many of a head's `dim` dimensions the frequencies are spread."""
        return dim if isinstance(self.scaling, ProportionalScaling) else int(dim * self.fraction)

    def rotated(self, dim: int) -> int:
        """How many of a head's `dim` dimensions stand in the pairs that are turned (by nothing, in the tail of a
        proportional scaling): an odd count takes one more."""
        return self.counted(dim) + self.counted(dim) % 2


@dataclass(frozen=True)
class Alibi:
    """A bias linear in distance (arXiv:2108.12409); `maximum` is the exponent of the steepest slope's denominator.

    `scale` multiplies every slope (Falcon adds the bias before its scores are scaled).
    """

    maximum: float = 8.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(maximum=self.maximum, scale=self.scale)


@dataclass(frozen=True)
class Buckets:
    """T5's learned bias by bucketed distance (arXiv:1910.10683): half of `count` buckets are single distances, the rest
    grow logarithmically up to `distance`. All layers of a stack with the same value share one table."""

    count: int = 32
    distance: int = 128

    def __post_init__(self) -> None:
        positive(count=self.count, distance=self.distance)
        check(self.distance > self.count // 2, f"distance={self.distance} must exceed half of count={self.count}")


@dataclass(frozen=True)
class Learned:
    """A learned table of positions at the embedding; position p reads row p + offset."""

    rows: int
    offset: int = 0

    def __post_init__(self) -> None:
        positive(rows=self.rows)
        check(0 <= self.offset < self.rows, f"offset={self.offset} must be in [0, rows={self.rows})")


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines at the embedding (arXiv:1706.03762)."""

    layout: Literal["half", "interleaved"] = "interleaved"


# ---------------------------------------------------------------------------------------------- spans


@dataclass(frozen=True)
class Full:
    """A query sees every position up to its own."""

    def first_visible(self, position: int) -> int:
        return 0


@dataclass(frozen=True)
class Window:
    """A query sees `size` positions, its own included."""

    size: int

    def __post_init__(self) -> None:
        positive(size=self.size)

    def first_visible(self, position: int) -> int:
        return max(0, position - self.size + 1)


@dataclass(frozen=True)
class Chunk:
    """A query sees its own chunk of `size` positions, up to itself."""

    size: int

    def __post_init__(self) -> None:
        positive(size=self.size)

    def first_visible(self, position: int) -> int:
        return position // self.size * self.size


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
    """Grouped-query heads (arXiv:2305.13245): kv == query is multi-head, kv == 1 is multi-query."""

    query: int
    kv: int
    dim: int
    bias: bool = False
    qk_norm: QKNorm | None = None
    clip: float | None = None
    shared_value: bool = False  # no value projection: the key projection's output serves
    value_norm: Norm | None = None

    def __post_init__(self) -> None:
        positive(query=self.query, kv=self.kv, dim=self.dim)
        check(self.query % self.kv == 0, f"kv={self.kv} does not divide query={self.query}")
        if self.clip is not None:
            positive(clip=self.clip)


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
        if self.query_rank is not None:
            positive(query_rank=self.query_rank)

    @property
    def dim(self) -> int:
        return self.plain_dim + self.rotary_dim


@dataclass(frozen=True)
class Temperature:
    """Queries grow with position: q *= 1 + weight * ln(1 + floor((i + 1) / floor)) (Llama 4)."""

    floor: float
    weight: float

    def __post_init__(self) -> None:
        positive(floor=self.floor)


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


@dataclass(frozen=True)
class Attention:
    """A self-attention branch. `scale` None means head dimension ** -0.5."""

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
        if self.softcap is not None:
            positive(softcap=self.softcap)
        if isinstance(self.position, Rotary):
            dim = self.heads.rotary_dim if isinstance(self.heads, Latent) else self.heads.dim
            turned = self.position.rotated(dim)
            check(
                0 < turned <= dim,
                f"fraction={self.position.fraction} of dim={dim} rotates {turned} dimensions; it must be 2 to {dim}",
            )

    @property
    def softmax_scale(self) -> float:
        return self.heads.dim**-0.5 if self.scale is None else self.scale


@dataclass(frozen=True)
class CrossAttention:
    """Attention from the sequence to a memory: an encoder's output, or states of an image. Nothing is causal in it."""

    heads: Grouped
    scale: float | None = None
    out_bias: bool = False

    def __post_init__(self) -> None:
        heads = self.heads
        check(heads.qk_norm is None or heads.qk_norm.over == "head", "a cross_attention norms its heads one by one")
        plain = heads.clip is None and heads.value_norm is None and not heads.shared_value
        check(plain, "a cross_attention has neither clip nor value_norm nor shared_value")

    @property
    def softmax_scale(self) -> float:
        return self.heads.dim**-0.5 if self.scale is None else self.scale


# ------------------------------------------------------------------------------------------ feed-forward and experts


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


# ---------------------------------------------------------------------------------------------- the model

Branch: TypeAlias = Attention | CrossAttention | FeedForward | MoE | Beside


@dataclass(frozen=True)
class Block:
    """Residual branches, one after another or side by side.

    Norms stand before each branch (pre), on the sum after it (post), on its output (output) or on both its ends
    (sandwich). `gated` multiplies each branch by tanh of one learned scalar.
    """

    branches: tuple[Branch, ...]
    norm: Norm = Norm()
    placement: Literal["pre", "post", "output", "sandwich"] = "pre"
    parallel: bool = False
    shared_norm: bool = False
    residual_scale: float = 1.0
    gated: bool = False

    def __post_init__(self) -> None:
        check(len(self.branches) > 0, "branches must not be empty")
        check(self.parallel or not self.shared_norm, "shared_norm=true needs parallel=true")
        check(
            not self.parallel or self.placement != "post",
            f"parallel=true cannot have placement={self.placement!r}: there is no sum after each branch",
        )
        mixture = any(isinstance(branch, MoE | Beside) for branch in self.branches)
        check(not (mixture and self.needs_memory), "a block that is left out without a memory cannot hold a mixture")

    @property
    def needs_memory(self) -> bool:
        """Whether the block stands for a look at the memory, and is left out of a pass that has none."""
        kinds = {type(branch) for branch in self.branches}
        return CrossAttention in kinds and Attention not in kinds


@dataclass(frozen=True)
class Embedding:
    """Token embedding, times `scale`, plus a position, then an optional norm.

    `spare` rows stand behind the vocabulary's and have no logits (places for images).
    """

    position: Learned | Sinusoidal | None = None
    scale: float = 1.0
    norm: Norm | None = None
    spare: int = 0

    def __post_init__(self) -> None:
        check(self.spare >= 0, f"spare must not be negative, got {self.spare}")


@dataclass(frozen=True)
class Head:
    """The projection to the vocabulary; `scale` multiplies the logits, `softcap` c bounds them by c * tanh(x / c)."""

    tied: bool = False
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class Encoder:
    """A stack that reads the prompt in both directions; its normed output is the memory of the cross-attention."""

    blocks: tuple[Block, ...]
    norm: Norm | None = field(default_factory=Norm)

    def __post_init__(self) -> None:
        check(len(self.blocks) > 0, "encoder.blocks must not be empty")
        for attention in self.attentions:
            check(isinstance(attention.span, Full), f"an encoder sees everything, its span cannot be {attention.span}")
            check(attention.indexer is None, "an encoder sees everything, it cannot have an indexer")
        crossing = any(isinstance(b, CrossAttention) for block in self.blocks for b in block.branches)
        check(not crossing, "an encoder has no memory for a cross_attention")

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Every attention branch in the order of the layers."""
        return attentions_of(self.blocks)

    @property
    def mixtures(self) -> tuple[tuple[int, MoE], ...]:
        """(block index, mixture) of every mixture of experts in the order of the layers."""
        return mixtures_of(self.blocks)


@dataclass(frozen=True)
class Architecture:
    """A model: sizes, a tuple of blocks, and an encoder where it has one. Encoder and decoder share the embedding."""

    vocab: int
    width: int
    context: int
    blocks: tuple[Block, ...]
    embedding: Embedding = Embedding()
    norm: Norm | None = field(default_factory=Norm)
    head: Head = Head()
    encoder: Encoder | None = None

    def __post_init__(self) -> None:
        positive(vocab=self.vocab, width=self.width, context=self.context)
        check(len(self.blocks) > 0, "blocks must not be empty")
        position = self.embedding.position
        if isinstance(position, Learned):
            check(
                position.rows - position.offset >= self.context,
                f"context={self.context} exceeds the {position.rows - position.offset} learned positions",
            )
        if isinstance(position, Sinusoidal):
            check(self.width % 2 == 0, f"sinusoidal positions need an even width, got {self.width}")
        check(
            not (self.head.tied and self.embedding.spare), f"a tied head has no room for spare={self.embedding.spare}"
        )
        crossing = any(isinstance(b, CrossAttention) for block in self.blocks for b in block.branches)
        check(self.encoder is None or crossing, "an encoder needs a cross_attention that looks at its output")

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Every attention branch in the order of the layers."""
        return attentions_of(self.blocks)

    @property
    def mixtures(self) -> tuple[tuple[int, MoE], ...]:
        """(block index, mixture) of every mixture of experts in the order of the layers."""
        return mixtures_of(self.blocks)


def attentions_of(blocks: tuple[Block, ...]) -> tuple[Attention, ...]:
    return tuple(b for block in blocks for b in block.branches if isinstance(b, Attention))


def mixtures_of(blocks: tuple[Block, ...]) -> tuple[tuple[int, MoE], ...]:
    found = ((i, branch) for i, block in enumerate(blocks) for branch in block.branches)
    mixed = ((i, branch.mixture if isinstance(branch, Beside) else branch) for i, branch in found)
    return tuple((i, branch) for i, branch in mixed if isinstance(branch, MoE))
