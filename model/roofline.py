"""What a machine can do with an architecture: what fits its memory, and how fast a decode step can be at best.

A step reads every weight it needs once and every request's cache once; it takes as long as the slower of the memory and
the arithmetic (arXiv:2402.16363). Nothing real is faster; how far below it something runs is the share of the roofline.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from model.config import Architecture, MoE
from model.footprint import BYTES, cache_bytes, memory_bytes, read_bytes
from model.operations import flops, flops_per_token
from model.parameters import feed_forward_parameters, parameters, without_memory


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes, its bandwidth in bytes a second, and operations a second."""

    memory: float
    bandwidth: float
    flops: float

    def least_seconds(self, moved: float, operations: float) -> tuple[float, float]:
        """Seconds that so many bytes and operations take at least, as (memory, compute): both go on at once, so only
        the longer one counts and the other is 0."""
        memory, compute = moved / self.bandwidth, operations / self.flops
        return (memory, 0.0) if memory >= compute else (0.0, compute)


@dataclass(frozen=True, slots=True)
class Roofline:
    """The least one step of `batch` tokens can take: of a decode step, or of a prompt's prefill."""

    batch: int
    weight_bytes: float
    cache_bytes: float
    flops: float
    memory_seconds: float
    compute_seconds: float

    @property
    def seconds(self) -> float:
        return max(self.memory_seconds, self.compute_seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.batch / self.seconds

    @property
    def bound(self) -> str:
        """What the step waits for: memory or compute."""
        return "memory" if self.memory_seconds >= self.compute_seconds else "compute"


def roofline(
    architecture: Architecture,
    machine: Machine,
    batch: int,
    length: int,
    dtype: str = "bfloat16",
    weight_size: float | None = None,
) -> Roofline:
    """The least that a decode step of `batch` requests of `length` positions can take; `weight_size`: bytes of one
    weight where that is not `dtype`'s. Without an encoder, blocks that only look at a memory do not count."""
    architecture = without_memory(architecture)
    weights = weight_bytes_per_step(architecture, batch, dtype) * (weight_size or BYTES[dtype]) / BYTES[dtype]
    memory = memory_bytes(architecture, length, dtype)
    cached = batch * (read_bytes(architecture, length, dtype) + memory)
    operations = batch * flops_per_token(architecture, length).total
    seconds = (weights + cached) / machine.bandwidth, operations / machine.flops
    return Roofline(batch, weights, cached, operations, *seconds)


def prefill_roofline(
    architecture: Architecture, machine: Machine, length: int, dtype: str = "bfloat16", weight_size: float | None = None
) -> Roofline:
    """The least that a prompt of `length` tokens in one forward can take, with the logits of its last token."""
    architecture = without_memory(architecture)
    weights = weight_bytes_per_step(architecture, length, dtype) * (weight_size or BYTES[dtype]) / BYTES[dtype]
    cached = _held(architecture, length, dtype)
    operations = flops(architecture, 0, length)
    needed = operations.total - operations.head + operations.head // length
    seconds = (weights + cached) / machine.bandwidth, needed / machine.flops
    return Roofline(length, weights, cached, needed, *seconds)


def weight_bytes_per_step(architecture: Architecture, batch: int, dtype: str = "bfloat16") -> float:
    """Bytes of weights that a decode step of `batch` tokens reads, as expected where experts are chosen evenly."""
    always, each = weights_read(architecture)
    experts = sum(
        distinct_experts(moe, batch) * feed_forward_parameters(moe.expert, architecture.width)
        for _, moe in architecture.mixtures
    )
    return (always + batch * each + experts) * BYTES[dtype]


def weights_read(architecture: Architecture) -> tuple[int, int]:
    """Numbers that every step reads whatever it computes, and those it reads for each token; routed experts are extra.

    Tables of tokens and of positions are read in as many rows as there are tokens; one that is also the head is read
    whole. An encoder, and the weights that only a new memory is multiplied with, are no part of a step.
    """
    counted, width = parameters(architecture), architecture.width
    read = counted.total - counted.encoder - counted.all.positions - memory_weights(architecture)
    read -= sum(moe.experts * feed_forward_parameters(moe.expert, width) for _, moe in architecture.mixtures)
    tables = 1 if counted.all.positions else 0
    if not architecture.head.tied:
        read -= counted.all.embedding
        tables += 1
    return read, tables * width


def distinct_experts(moe: MoE, batch: int) -> float:
    """How many experts of a layer a batch of tokens touches, each token choosing evenly: E(1 - (1 - k/E)^B)."""
    return moe.experts * (1 - (1 - moe.active / moe.experts) ** batch)


def largest_batch(architecture: Architecture, memory: float, length: int, dtype: str = "bfloat16") -> int:
    """Requests of `length` positions whose caches fit beside the weights; 0 where the weights alone do not fit."""
    left = memory - parameters(architecture).total * BYTES[dtype]
    return max(0, int(left // _held(architecture, length, dtype)))


def largest_context(architecture: Architecture, memory: float, batch: int, dtype: str = "bfloat16") -> int:
    """Positions that each of `batch` requests may have, up to the architecture's context; 0 where nothing fits."""
    lengths = range(1, architecture.context + 1)
    return bisect_left(lengths, True, key=lambda length: largest_batch(architecture, memory, length, dtype) < batch)


def _held(architecture: Architecture, length: int, dtype: str) -> int:
    return cache_bytes(architecture, length, dtype) + memory_bytes(without_memory(architecture), length, dtype)


def memory_weights(architecture: Architecture) -> int:
    """Weights of cross-attention that only a new memory is multiplied with."""
    crossing = (branch.heads for branch in architecture.crossings)
    return sum(2 * heads.kv * heads.dim * (architecture.width + heads.bias) for heads in crossing)
