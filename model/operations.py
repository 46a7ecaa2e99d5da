"""Floating-point operations of an architecture by part: closed formulas on its values. No torch.

An operation is a multiplication or an addition, so that a weight costs two a token; norms, activations, softmax and
rotations are left out, as is usual. A length is the number of positions a token may look at, its own included.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from model import config
from model.config import Architecture, Attention, Beside, Branch, CrossAttention, FeedForward, MoE, Recurrent
from model.footprint import BYTES, memory_bytes, positions_seen
from model.parameters import Parts, indexer_parameters, recurrent_projections


@dataclass(frozen=True, slots=True)
class Operations(Parts):
    """Floating-point operations of one token by part: `projections` are the weights of attention and recurrent mixers,
    `scores` their products with what they look at."""

    projections: int = 0
    scores: int = 0
    feed_forward: int = 0
    experts: int = 0
    router: int = 0
    head: int = 0


def flops_per_token(architecture: Architecture, length: int, memory: int | None = None) -> Operations:
    """Operations of one decode step of one sequence at a length; latent attention is absorbed.

    memory: how many states cross-attention looks at, the length where it is not given; their keys and values exist
    already, as does an encoder's work.
    """
    return flops(architecture, length - 1, length, memory)


def flops(architecture: Architecture, start: int, stop: int, memory: int | None = None) -> Operations:
    """Operations of the tokens at positions start to stop, all with logits, one after another or at once."""
    count = stop - start
    operations = Operations(head=2 * architecture.vocab * architecture.width * count)
    for block, times in Counter(architecture.blocks).items():
        for branch in block.branches:
            operations += _linear(branch, architecture.width) * (count * times)
            if isinstance(branch, Attention):
                operations += Operations(scores=_scores(branch, start, stop)) * times
            elif isinstance(branch, Recurrent):
                operations += Operations(scores=recurrence_flops(branch)) * (count * times)
            elif isinstance(branch, CrossAttention):
                states = stop if memory is None else memory
                operations += Operations(scores=4 * branch.heads.query * branch.heads.dim * states) * (count * times)
    return operations


def encoding_flops(architecture: Architecture, length: int) -> Operations:
    """Operations of an encoder over a prompt, and of the keys and values that cross-attention makes of the memory."""
    blocks = architecture.encoder.blocks if architecture.encoder else ()
    branches = [branch for block in blocks for branch in block.branches]
    operations = sum((_linear(branch, architecture.width) * length for branch in branches), Operations())
    both_ways = (b.heads.query * b.heads.dim for b in branches if isinstance(b, Attention))
    operations += Operations(scores=sum(4 * inner * length * length for inner in both_ways))
    stored = memory_bytes(architecture, length) // BYTES["bfloat16"]
    return operations + Operations(projections=2 * architecture.width * stored)


def _linear(branch: Branch, width: int) -> Operations:
    """Operations of one token with the weights of a branch."""
    match branch:
        case Attention():
            return Operations(projections=2 * _multiplied(branch, width))
        case CrossAttention(heads):
            return Operations(projections=4 * width * heads.query * heads.dim)
        case Recurrent():
            return Operations(projections=2 * recurrent_projections(branch, width))
        case FeedForward():
            return Operations(feed_forward=2 * _matrices(branch, width))
        case MoE():
            shared = 0 if branch.shared is None else _matrices(branch.shared, width) + width * branch.shared_gate
            experts = branch.active * _matrices(branch.expert, width)
            return Operations(feed_forward=2 * shared, experts=2 * experts, router=2 * width * branch.experts)
        case Beside(dense, mixture):
            return _linear(dense, width) + _linear(mixture, width)


def _multiplied(value: Attention, width: int) -> int:
    """Weights of the attention that a token is multiplied with: all but biases, norms and sinks."""
    heads = value.heads
    if isinstance(heads, config.Latent):
        rank, inner = heads.query_rank, heads.query * heads.value_dim
        own = (rank or width) * heads.query * heads.dim + (0 if rank is None else rank * width)
        own += (heads.kv_rank + heads.rotary_dim) * width
        own += heads.kv_rank * heads.query * (heads.plain_dim + heads.value_dim)
    else:
        inner = heads.query * heads.dim
        own = (inner + heads.kv * heads.dim * (1 if heads.shared_value else 2)) * width
    if value.gate is not None:
        own += width * (inner if value.gate.over == "element" else heads.query)
    if value.indexer is not None:
        own += indexer_parameters(value, width) - 2 * value.indexer.dim
    return own + inner * width


def recurrence_flops(value: Recurrent) -> int:
    """Operations of one token with the states of a recurrent mixer: what is kept, what enters, what is read (by the
    delta rule also what the key had stored), and the convolution before."""
    state = value.heads * value.key_dim * value.value_dim
    mixed = 0 if value.convolution is None else 2 * value.convolution.width * value.mixed
    return (7 if value.rule == "delta" else 5) * state + mixed


def score_costs(value: Attention) -> tuple[tuple[int | None, int], ...]:
    """What looking at one position costs a token, as (how many it looks at at most, operations each): the products of
    queries with keys and of weights with values, and before them those of an indexer, which looks at all."""
    heads, most = value.heads, None
    both = 2 * heads.kv_rank + heads.rotary_dim if isinstance(heads, config.Latent) else 2 * heads.dim
    choosing: tuple[tuple[int | None, int], ...] = ()
    if value.indexer is not None:
        choosing = ((None, 2 * value.indexer.heads * value.indexer.dim),)
        most = value.indexer.top_k
    return ((most, 2 * heads.query * both), *choosing)


def _scores(value: Attention, start: int, stop: int) -> int:
    return sum(each * positions_seen(value.span, start, stop, most) for most, each in score_costs(value))


def _matrices(value: FeedForward, width: int) -> int:
    return (3 if value.gated else 2) * value.hidden * width
