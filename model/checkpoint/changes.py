"""What a stored tensor goes through before it is a part of a parameter. Views wherever possible; nothing is kept.

A change knows its shapes backwards: `shapes(region)` is what its sources must have to fill a region of a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

Shape: TypeAlias = tuple[int, ...]
FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
BYTES = frozenset({"U8"})


class Change(Protocol):
    """A pure function of one or more stored tensors."""

    @property
    def dtypes(self) -> frozenset[str]:
        """The types its sources may be stored in, by safetensors' names."""
        ...

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        """The shape of each source, for a region of this shape."""
        ...

    def __call__(self, *sources: Tensor) -> Tensor:
        """The region's contents, in any floating type."""
        ...


class _OfFloats:
    @property
    def dtypes(self) -> frozenset[str]:
        return FLOATING


@dataclass(frozen=True)
class Same(_OfFloats):
    """The stored tensor as it is."""

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return (region,)

    def __call__(self, *sources: Tensor) -> Tensor:
        return sources[0]


SAME = Same()


@dataclass(frozen=True)
class Transposed(_OfFloats):
    """Swaps the last two dimensions of a tensor; a vector stays as it is."""

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return (region if len(region) < 2 else (*region[:-2], region[-1], region[-2]),)

    def __call__(self, *sources: Tensor) -> Tensor:
        return sources[0] if sources[0].dim() < 2 else sources[0].mT


@dataclass(frozen=True)
class Unstacked(_OfFloats):
    """Splits the first dimension: stored (count * rows, …) → (count, rows, …)."""

    count: int

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return ((region[0] * region[1], *region[2:]),)

    def __call__(self, *sources: Tensor) -> Tensor:
        rows: Tensor = sources[0].unflatten(0, (self.count, -1))
        return rows


@dataclass(frozen=True)
class Squeezed(_OfFloats):
    """Drops dimensions of 1: those of the stored tensor with these indices, which rise."""

    at: tuple[int, ...]

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        stored = list(region)
        for index in self.at:
            stored.insert(index, 1)
        return (tuple(stored),)

    def __call__(self, *sources: Tensor) -> Tensor:
        return sources[0].squeeze(self.at)


@dataclass(frozen=True)
class EverySecond(_OfFloats):
    """Takes every second entry of the second dimension, from `first` on: stored (a, 2 b, …) → (a, b, …)."""

    first: int

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return ((region[0], region[1] * 2, *region[2:]),)

    def __call__(self, *sources: Tensor) -> Tensor:
        return sources[0][:, self.first :: 2]


@dataclass(frozen=True)
class OfGroups(_OfFloats):
    """Takes the queries, keys or values out of a fused projection whose rows are sorted by key head: stored
    (kv, query / kv + 2, dim), in each group the queries, then the key, then the value."""

    part: Literal["query", "key", "value"]
    query: int
    kv: int
    dim: int

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return (((self.query + 2 * self.kv) * self.dim, *region[1:]),)

    def __call__(self, *sources: Tensor) -> Tensor:
        groups: Tensor = sources[0].unflatten(0, (self.kv, -1, self.dim))
        own = {"query": groups[:, :-2], "key": groups[:, -2:-1], "value": groups[:, -1:]}
        return own[self.part].flatten(0, 2)


@dataclass(frozen=True)
class OfHeads(_OfFloats):
    """Takes `size` of every head's `rows` rows, from `first` on: stored (heads * rows, rest) → (heads, size, rest)."""

    first: int
    size: int
    rows: int

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return ((region[0] * self.rows, *region[2:]),)

    def __call__(self, *sources: Tensor) -> Tensor:
        heads: Tensor = sources[0].unflatten(0, (-1, self.rows))
        return heads[:, self.first : self.first + self.size]


@dataclass(frozen=True)
class OfRows(_OfFloats):
    """Takes `size` rows, from `first` on, out of every `rows` that are stored one after another: stored
    (groups * rows, …) → (groups * size, …)."""

    first: int
    size: int
    rows: int

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return ((region[0] // self.size * self.rows, *region[1:]),)

    def __call__(self, *sources: Tensor) -> Tensor:
        groups: Tensor = sources[0].unflatten(0, (-1, self.rows))
        return groups[:, self.first : self.first + self.size].flatten(0, 1)


@dataclass(frozen=True)
class Projected(_OfFloats):
    """A narrow embedding (vocab, narrow) times its projection: stored (width, narrow), or (narrow, width) as `out`."""

    narrow: int
    out: bool

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        vocab, width = region
        return (vocab, self.narrow), (self.narrow, width) if self.out else (width, self.narrow)

    def __call__(self, *sources: Tensor) -> Tensor:
        embedding, projection = sources[0].float(), sources[1].float()
        return embedding @ (projection if self.out else projection.mT)


@dataclass(frozen=True)
class Chain:
    """Applies two changes, `first` and then `then`, as one; only `first` may have several sources."""

    first: Change
    then: Change

    @property
    def dtypes(self) -> frozenset[str]:
        return self.first.dtypes

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        return self.first.shapes(self.then.shapes(region)[0])

    def __call__(self, *sources: Tensor) -> Tensor:
        return self.then(self.first(*sources))


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
FP4_BLOCK = 32


@dataclass(frozen=True)
class Mxfp4:
    """One expert's rows of a matrix in MXFP4 (OCP Microscaling v1.0): every `step`-th of them, from `first` on.

    Sources: blocks (experts, rows, columns / 32, 16), two values a byte, the lower half first; scales (experts, rows,
    columns / 32), the exponent of each block's power of two plus 127.
    """

    expert: int
    experts: int
    first: int = 0
    step: int = 1

    @property
    def dtypes(self) -> frozenset[str]:
        return BYTES

    def shapes(self, region: Shape) -> tuple[Shape, ...]:
        scales = (self.experts, region[0] * self.step, region[1] // FP4_BLOCK)
        return (*scales, FP4_BLOCK // 2), scales

    def __call__(self, *sources: Tensor) -> Tensor:
        blocks, scales = (source[self.expert, self.first :: self.step] for source in sources)
        halves = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
        exponents = scales.to(torch.int32)[..., None] - 127
        return torch.ldexp(FP4[halves.long()], exponents).flatten(-2)
