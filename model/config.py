"""What an architecture is, as frozen values. No torch here.

A model is a tuple of blocks; a block is a tuple of residual branches (attention, recurrent mixer, feed-forward, mixture
of experts), in series or in parallel. Layers differ by holding different values. Every value checks itself when it is
built and raises `ConfigError` with the names and the numbers that disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from model.values.attention import (
    Attention,
    Chunk,
    CrossAttention,
    Full,
    Grouped,
    Indexer,
    Latent,
    OutputGate,
    QKNorm,
    Span,
    Temperature,
    Window,
)
from model.values.base import ConfigError, Norm, check, positive
from model.values.feedforward import (
    Activation,
    Beside,
    Capacity,
    ClampedGate,
    FeedForward,
    Groups,
    MoE,
    Router,
    RouterLoss,
    SparseMixer,
)
from model.values.position import (
    Alibi,
    Buckets,
    Learned,
    LinearScaling,
    Llama3Scaling,
    ProportionalScaling,
    Rotary,
    Scaling,
    Sinusoidal,
    YarnScaling,
)
from model.values.recurrent import (
    Convolution,
    Decay,
    FixedDecay,
    LearnedDecay,
    Recurrent,
    StateGate,
)

__all__ = [
    "Activation",
    "Alibi",
    "Architecture",
    "Attention",
    "Beside",
    "Block",
    "Branch",
    "Buckets",
    "Capacity",
    "Chunk",
    "ClampedGate",
    "ConfigError",
    "Convolution",
    "CrossAttention",
    "Decay",
    "Embedding",
    "Encoder",
    "FeedForward",
    "FixedDecay",
    "Full",
    "Grouped",
    "Groups",
    "Head",
    "Indexer",
    "Latent",
    "Learned",
    "LearnedDecay",
    "LinearScaling",
    "Llama3Scaling",
    "MoE",
    "Norm",
    "OutputGate",
    "ProportionalScaling",
    "QKNorm",
    "Recurrent",
    "Rotary",
    "Router",
    "RouterLoss",
    "Scaling",
    "Sinusoidal",
    "Span",
    "SparseMixer",
    "StateGate",
    "Temperature",
    "Window",
    "YarnScaling",
]

Branch: TypeAlias = Attention | CrossAttention | Recurrent | FeedForward | MoE | Beside


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
        positive(residual_scale=self.residual_scale)
        check(self.parallel or not self.shared_norm, "shared_norm=true needs parallel=true")
        check(
            not self.parallel or self.placement != "post",
            f"parallel=true cannot have placement={self.placement!r}: there is no sum after each branch",
        )
        mixture = any(isinstance(branch, MoE | Beside) for branch in self.branches)
        check(not (mixture and self.needs_memory), "a block that is left out without a memory cannot hold a mixture")

    @property
    def kind(self) -> Block:
        """The block as it stands first: the fixed decays of blocks that differ by their depth alone are made one."""
        return replace(self, branches=tuple(map(_first, self.branches)))

    @property
    def needs_memory(self) -> bool:
        """Whether the block stands for a look at the memory, and is left out of a pass that has none."""
        kinds = {type(branch) for branch in self.branches}
        return CrossAttention in kinds and not kinds & {Attention, Recurrent}


def _first(branch: Branch) -> Branch:
    if isinstance(branch, Recurrent) and isinstance(branch.decay, FixedDecay):
        return replace(branch, decay=FixedDecay())
    return branch


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
        positive(scale=self.scale)
        check(self.spare >= 0, f"spare must not be negative, got {self.spare}")


@dataclass(frozen=True)
class Head:
    """The projection to the vocabulary; `scale` multiplies the logits, `softcap` c bounds them by c * tanh(x / c)."""

    tied: bool = False
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        positive(scale=self.scale, softcap=self.softcap)


class _Stack:
    """What blocks hold, in the order of the layers."""

    blocks: tuple[Block, ...]

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Every attention branch."""
        return tuple(b for block in self.blocks for b in block.branches if isinstance(b, Attention))

    @property
    def recurrents(self) -> tuple[Recurrent, ...]:
        """Every recurrent mixer."""
        return tuple(b for block in self.blocks for b in block.branches if isinstance(b, Recurrent))

    @property
    def crossings(self) -> tuple[CrossAttention, ...]:
        """Every cross-attention branch."""
        return tuple(b for block in self.blocks for b in block.branches if isinstance(b, CrossAttention))

    @property
    def mixtures(self) -> tuple[tuple[int, MoE], ...]:
        """(block index, mixture) of every mixture of experts."""
        found = ((i, branch) for i, block in enumerate(self.blocks) for branch in block.branches)
        mixed = ((i, branch.mixture if isinstance(branch, Beside) else branch) for i, branch in found)
        return tuple((i, branch) for i, branch in mixed if isinstance(branch, MoE))


@dataclass(frozen=True)
class Encoder(_Stack):
    """A stack that reads the prompt in both directions; its normed output is the memory of the cross-attention."""

    blocks: tuple[Block, ...]
    norm: Norm | None = field(default_factory=Norm)

    def __post_init__(self) -> None:
        check(len(self.blocks) > 0, "encoder.blocks must not be empty")
        for attention in self.attentions:
            check(isinstance(attention.span, Full), f"an encoder sees everything, its span cannot be {attention.span}")
            check(attention.indexer is None, "an encoder sees everything, it cannot have an indexer")
        check(not self.crossings, "an encoder has no memory for a cross_attention")
        check(not self.recurrents, "an encoder sees both ways, it cannot have a recurrent mixer")


@dataclass(frozen=True)
class Architecture(_Stack):
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
        check(
            self.encoder is None or bool(self.crossings), "an encoder needs a cross_attention that looks at its output"
        )
