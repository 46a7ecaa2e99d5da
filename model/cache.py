"""What one token stores in each attention layer, and the one method that a branch calls to use it: attention of the
cache for what came before, cross-attention of the memory for what an encoder read, a recurrent mixer of what it
carries. Kernels for several layers ask an open view once for the same. No torch at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, cast

from model.config import Architecture, Attention, Latent, Span

if TYPE_CHECKING:
    from torch import Tensor

    from model.kernels.attention import Scores
    from model.kernels.inplace import Call, Pools
    from model.kernels.recurrence import Fed, Mixing
    from model.states import StateView

Projection: TypeAlias = "Callable[[Tensor], tuple[Tensor, Tensor]]"


@dataclass(frozen=True)
class Carried:
    """How far a recurrent mixer looks back: at the state that the token before left, which tells of all before it."""

    size: ClassVar[int] = 2  # positions, its own included, as a window counts them

    def first_visible(self, position: int) -> int:
        return max(0, position - 1)

    def reach(self, length: int) -> int:
        return 0  # positions: none is looked back on


@dataclass(frozen=True)
class CacheEntry:
    """One token's entry in one layer: `heads` keys of `key_dim` numbers and as many values of `value_dim`.

    With `value_in_key` nothing is stored for values: they are the first `value_dim` numbers of the key (latent
    attention, where the key is the latent followed by the rotary key, and by the indexer's key where there is one).
    """

    span: Span
    heads: int
    key_dim: int
    value_dim: int
    value_in_key: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers one token stores in this layer."""
        return self.heads * (self.key_dim + (0 if self.value_in_key else self.value_dim))


def cache_entry(attention: Attention) -> CacheEntry:
    """What one token stores for this branch."""
    heads = attention.heads
    if isinstance(heads, Latent):
        key_dim = heads.kv_rank + heads.rotary_dim + (attention.indexer.dim if attention.indexer else 0)
        return CacheEntry(attention.span, 1, key_dim, heads.kv_rank, value_in_key=True)
    return CacheEntry(attention.span, heads.kv, heads.dim, heads.dim)


def cache_entries(architecture: Architecture) -> tuple[CacheEntry, ...]:
    """One entry an attention branch, in the order of the layers: the index is the branch's cache layer."""
    return tuple(cache_entry(attention) for attention in architecture.attentions)


def spans(entries: Sequence[CacheEntry]) -> tuple[Span, ...]:
    """The spans that there are, in order of the layers: layers of one span share block tables."""
    return tuple(dict.fromkeys(entry.span for entry in entries))


def groups_of(entries: Sequence[CacheEntry]) -> tuple[int, ...]:
    """For each layer, which of the spans is its own."""
    all_spans = spans(entries)
    return tuple(all_spans.index(entry.span) for entry in entries)


class MemoryView(Protocol):
    """What cross-attention sees of the memories of this step's sequences."""

    def attend(self, layer: int, query: Tensor, project: Projection, scores: Scores) -> Tensor:
        """What queries attend to in the memory of their sequence.

        layer: index among the cross-attention branches. query (tokens, query heads, dim). project: states (n, width) →
        keys and values (n, heads, dim) each; whoever holds the memory may keep the result, it never changes. Returns
        (tokens, query heads, dim).
        """
        ...


class CacheView(Protocol):
    """What a forward pass sees of the cache: it stores this step's entries and attends over all that are visible."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, scores: Scores) -> Tensor:
        """Store the entries of this step's tokens and return what their queries attend to.

        layer: index into `cache_entries`. query (tokens, query heads, key_dim); key (tokens, heads, key_dim); value
        (tokens, heads, value_dim), or None where the entry keeps it in the key. Returns (tokens, query heads,
        value_dim).
        """
        ...

    def carry(self, layer: int, mixing: Mixing, fed: Fed) -> Tensor:
        """Carry the states of a recurrent mixer through this step's tokens, and return what is read from them.

        layer: index among the recurrent branches. fed: (tokens, n) each. Returns (tokens, heads * value_dim), normed
        and gated.
        """
        ...


class OpenCacheView(CacheView, Protocol):
    """A view whose pages a kernel may read and write by itself, so that several layers need only one call of it. What
    comes of it is what `attend` gives, layer by layer."""

    pools: Pools
    """Where entries lie: the same object for every view of the same memory."""

    states: StateView | None
    """What recurrent mixers carry; None without them."""

    def calls(self) -> Sequence[Call]:
        """How all tokens of the step are stored and attended to, for each group of layers that `pools` tells of."""
        ...


def opened(view: CacheView) -> OpenCacheView | None:
    """The view, if it is open. Asked in every step: a check of the whole protocol would take longer than a layer."""
    return cast("OpenCacheView", view) if _is_open(type(view)) else None


@cache
def _is_open(kind: type[CacheView]) -> bool:
    return hasattr(kind, "calls")
