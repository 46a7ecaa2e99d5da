"""Where a family of checkpoints keeps what: names relative to a block, and the few ways of packing parameters together.

The defaults are the names that most of the field's checkpoints use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from model import config
from model.checkpoint.piece import Piece

ExpertPieces: TypeAlias = Callable[[config.MoE, str, str], Iterator[Piece]]
"""The pieces of a stack of experts: (value, our prefix, their prefix)."""


@dataclass(frozen=True)
class GroupedNames:
    """Attention with grouped heads. `qkv` has three names, or one of a fused projection, whose rows are queries, keys,
    values, or, `by_group`, sorted by key head. A norm with a weight for each head has {head} in its name. Where there
    is a gate on the output, the layer of the queries has it too: of each head its query, then its gate."""

    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    out: str = "self_attn.o_proj"
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    sinks: str = "self_attn.sinks"
    by_group: bool = False


@dataclass(frozen=True)
class LatentNames:
    """Latent attention; `query` is there instead of the three after it where queries are not compressed."""

    query: str = "self_attn.q_proj"
    query_down: str = "self_attn.q_a_proj"
    query_norm: str = "self_attn.q_a_layernorm"
    query_up: str = "self_attn.q_b_proj"
    latent_down: str = "self_attn.kv_a_proj_with_mqa"
    latent_norm: str = "self_attn.kv_a_layernorm"
    latent_up: str = "self_attn.kv_b_proj"
    out: str = "self_attn.o_proj"
    gate: str = "self_attn.g_proj"


RecurrentPart: TypeAlias = Literal["query", "key", "value", "gate", "decay", "strength"]
"""What rows of a recurrent mixer's projection, or of its convolution, are for."""
Fused: TypeAlias = tuple[str, tuple[RecurrentPart, ...]]
"""A stored tensor, and the parts that its rows are of, one after another."""


@dataclass(frozen=True)
class RecurrentNames:
    """A recurrent mixer. `into`: its projections, together with all rows that the value has; `by_key_head`: their rows
    are sorted by key head, and of each head the parts follow one another. `taps`: its convolutions, never sorted.

    `rate_ones`: dimensions of 1 that the stored rates have beside that of the heads.
    """

    into: tuple[Fused, ...]
    taps: tuple[Fused, ...] = ()
    gate_up: str = ""
    decay_up: str = ""
    rate: str = ""
    step_bias: str = ""
    skip: str = ""
    norm: str = ""
    out: str = "self_attn.o_proj"
    by_key_head: bool = False
    rate_ones: tuple[int, ...] = ()


@dataclass(frozen=True)
class FeedForwardNames:
    """The layers of a feed-forward; `up` has the gate's name first where the gate is a layer of its own."""

    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"


@dataclass(frozen=True)
class MixtureNames:
    experts: ExpertPieces
    router: str = "mlp.gate"
    correction: str = "mlp.gate.e_score_correction_bias"
    shared: FeedForwardNames = FeedForwardNames()
    shared_gate: str = "mlp.shared_expert_gate"
    flat_correction: bool = True  # else it is stored as (1, experts)


@dataclass(frozen=True)
class Folded:
    """An embedding of `narrow` columns, projected to the width on the way in and back on the way out (OPT 350M)."""

    narrow: int
    into: str
    out: str


@dataclass(frozen=True)
class Layout:
    """All names of a family. {i} in `block` is the block's index; `transposed` weights are stored as (in, out).

    following: the norm after a block's last branch is kept with the next block, by this name, and the last one as
    `norm`.
    """

    embedding: str = "model.embed_tokens"
    position: str = ""
    embedding_norm: str = ""
    block: str = "model.layers.{i}"
    norm: str = "model.norm"
    head: str = "lm_head"
    before: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    after: tuple[str, ...] = ()
    following: str = ""
    attention: GroupedNames | LatentNames = GroupedNames()
    recurrent: RecurrentNames | None = None
    feed_forward: FeedForwardNames = FeedForwardNames()
    mixture: MixtureNames | None = None
    folded: Folded | None = None
    transposed: bool = False
