"""Parameters of an architecture, all and active, by where they live: closed formulas on its values. No torch.

A parameter is a trained number, counted once (a tied embedding once; no buffers). Active are those that one token
passes: all but the routed experts that are not chosen for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from model import config
from model.config import Architecture, Attention, Beside, Block, Branch, CrossAttention, FeedForward, MoE, Recurrent

Numbers = TypeVar("Numbers", bound="Parts")


@dataclass(frozen=True, slots=True)
class Parts:
    """Numbers by part, which add up part by part."""

    def __add__(self: Numbers, other: Numbers) -> Numbers:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self: Numbers, times: int) -> Numbers:
        return type(self)(*(getattr(self, f.name) * times for f in fields(self)))

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True, slots=True)
class Weights(Parts):
    """Parameters by where they live. `attention` includes what stands in its place, recurrent mixers; `experts` are the
    routed ones, `shared` those every token passes beside them."""

    embedding: int = 0
    positions: int = 0
    attention: int = 0
    feed_forward: int = 0
    experts: int = 0
    shared: int = 0
    router: int = 0
    norms: int = 0
    head: int = 0


@dataclass(frozen=True, slots=True)
class Parameters:
    """All parameters and the active ones; `encoder` is the part of both that only a prompt passes."""

    all: Weights
    used: Weights
    encoder: int = 0

    @property
    def total(self) -> int:
        return self.all.total

    @property
    def active(self) -> int:
        return self.used.total

    @property
    def active_without_embeddings(self) -> int:
        """Active parameters without the tables of tokens and positions and without the head."""
        return self.active - self.used.embedding - self.used.positions - self.used.head


def parameters(architecture: Architecture) -> Parameters:
    width, encoder = architecture.width, architecture.encoder
    whole, used = _stack(architecture.blocks, width)
    ends = _ends(architecture)
    if encoder is None:
        return Parameters(whole + ends, used + ends)
    norm = Weights(norms=_norm(encoder.norm, width))
    more, used_more = (part + norm for part in _stack(encoder.blocks, width))
    return Parameters(whole + more + ends, used + used_more + ends, more.total)


def without_memory(architecture: Architecture) -> Architecture:
    """The architecture that a text alone passes: without an encoder there is no memory, and blocks that only look at
    one are left out."""
    if architecture.encoder is not None:
        return architecture
    return replace(architecture, blocks=tuple(block for block in architecture.blocks if not block.needs_memory))


def _ends(architecture: Architecture) -> Weights:
    """Parameters outside the blocks."""
    width, vocab, head = architecture.width, architecture.vocab, architecture.head
    position = architecture.embedding.position
    return Weights(
        embedding=(vocab + architecture.embedding.spare) * width,
        positions=position.rows * width if isinstance(position, config.Learned) else 0,
        norms=_norm(architecture.norm, width) + _norm(architecture.embedding.norm, width),
        head=(0 if head.tied else vocab * width) + (vocab if head.bias else 0),
    )


def _stack(blocks: Iterable[Block], width: int) -> tuple[Weights, Weights]:
    """(all, active) parameters of a stack, the tables of bias that its blocks share included."""
    distinct = Counter(blocks)
    tables = {
        (branch.position, branch.heads.query)
        for block in distinct
        for branch in block.branches
        if isinstance(branch, Attention) and isinstance(branch.position, config.Buckets)
    }
    shared = Weights(attention=sum(value.count * heads for value, heads in tables))
    whole = used = shared
    for block, count in distinct.items():
        for branch in block.branches:
            whole, used = whole + _branch(branch, width, True) * count, used + _branch(branch, width, False) * count
        outside = Weights(norms=_block_norms(block, width), attention=len(block.branches) if block.gated else 0)
        whole, used = whole + outside * count, used + outside * count
    return whole, used


def _block_norms(block: Block, width: int) -> int:
    own = sum(isinstance(branch, Beside) for branch in block.branches)
    before = (1 if block.shared_norm else len(block.branches) - own) if block.placement in ("pre", "sandwich") else 0
    after = len(block.branches) if block.placement != "pre" else 0
    return (before + after) * _norm(block.norm, width)


def _branch(branch: Branch, width: int, idle: bool) -> Weights:
    """Parameters of a branch, with or without its idle experts."""
    match branch:
        case Attention():
            return Weights(attention=_attention(branch, width))
        case CrossAttention(heads):
            return Weights(attention=_grouped(heads, width, branch.out_bias))
        case Recurrent():
            return Weights(attention=_recurrent(branch, width))
        case FeedForward():
            return Weights(feed_forward=feed_forward_parameters(branch, width))
        case MoE():
            return _mixture(branch, width, idle)
        case Beside(dense, mixture, norm):
            beside = Weights(feed_forward=feed_forward_parameters(dense, width), norms=4 * _norm(norm, width))
            return beside + _mixture(mixture, width, idle)


def _attention(value: Attention, width: int) -> int:
    heads = value.heads
    if isinstance(heads, config.Latent):
        inner, own = heads.query * heads.value_dim, _latent(heads, width, value.out_bias)
    else:
        inner, own = heads.query * heads.dim, _grouped(heads, width, value.out_bias)
    if value.gate is not None:
        own += width * (inner if value.gate.over == "element" else heads.query)
        own += heads.query if value.gate.bias else 0
    return own + (heads.query if value.sinks else 0) + indexer_parameters(value, width)


def _grouped(heads: config.Grouped, width: int, out_bias: bool) -> int:
    projected = (heads.query + heads.kv * (1 if heads.shared_value else 2)) * heads.dim
    own = projected * (width + heads.bias) + heads.query * heads.dim * width + width * out_bias
    norm = heads.qk_norm
    if norm is not None:
        own += _norm(norm.norm, heads.dim * (2 if norm.over == "head" else heads.query + heads.kv))
    return own + _norm(heads.value_norm, heads.dim)


def _latent(heads: config.Latent, width: int, out_bias: bool) -> int:
    rank, rotary = heads.query_rank, heads.rotary_dim
    query = (rank or width) * heads.query * heads.dim
    if rank is not None:
        query += rank * (width + heads.bias) + _norm(heads.norm, rank)
    down = (heads.kv_rank + rotary) * (width + heads.bias) + _norm(heads.norm, heads.kv_rank)
    up = heads.kv_rank * heads.query * (heads.plain_dim + heads.value_dim)
    return query + down + up + heads.query * heads.value_dim * width + width * out_bias


def indexer_parameters(value: Attention, width: int) -> int:
    indexer = value.indexer
    if indexer is None:
        return 0
    assert isinstance(value.heads, config.Latent)
    query = (value.heads.query_rank or width) * indexer.heads * indexer.dim
    return query + width * (indexer.dim + indexer.heads) + 2 * indexer.dim


def _recurrent(value: Recurrent, width: int) -> int:
    own = recurrent_projections(value, width) + value.heads * value.skip
    if value.learned is not None:
        own += value.heads + value.steps
    if value.convolution is not None:
        own += value.mixed * (value.convolution.width + value.convolution.bias)
    return own + _norm(value.norm, value.value_dim if value.norm_over == "head" else value.inner)


def recurrent_projections(value: Recurrent, width: int) -> int:
    """Parameters of a recurrent mixer's linear layers."""
    gate = value.gate
    own = width * (value.mixed + value.inner + (value.heads if value.rule == "delta" else 0))
    if gate is not None:
        own += width * value.inner if gate.rank is None else gate.rank * (width + value.inner)
    rank = None if value.learned is None else value.learned.rank
    return own + (width * value.steps if rank is None else rank * (width + value.steps))


def feed_forward_parameters(value: FeedForward, width: int) -> int:
    """Parameters of a feed-forward, or of one expert."""
    up = value.hidden * (2 if value.gated else 1)
    return up * (width + value.bias) + (value.hidden + value.bias) * width


def _mixture(value: MoE, width: int, idle: bool) -> Weights:
    router, count = value.router, value.experts if idle else value.active
    shared = 0 if value.shared is None else feed_forward_parameters(value.shared, width) + width * value.shared_gate
    return Weights(
        experts=count * feed_forward_parameters(value.expert, width),
        shared=shared,
        router=value.experts * (width + router.bias + router.expert_gain),
        norms=_norm(router.norm, width),
    )


def _norm(value: config.Norm | None, width: int) -> int:
    return 0 if value is None else width * (value.weight + value.bias)
