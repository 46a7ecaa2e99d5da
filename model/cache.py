"""What one token stores in each attention layer, and the one method attention calls to use it. No torch at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from model.config import Architecture, Attention, Latent, Span

if TYPE_CHECKING:
    from torch import Tensor

    from model.kernels.attention import Scores


@dataclass(frozen=True)
class CacheEntry:
    """One token's entry in one layer: `heads` keys of `key_dim` numbers and as many values of `value_dim`.

    With `value_in_key` nothing is stored for values: they are the first `value_dim` numbers of the key (latent
    attention, where the key is the latent followed by the rotary key).
    """

    span: Span
    heads: int
    key_dim: int
    value_dim: int
    value_in_key: bool = False

    @property
    def numbers(self) -> int:
        """Numbers stored a token."""
        return self.heads * (self.key_dim + (0 if self.value_in_key else self.value_dim))


def cache_entry(attention: Attention) -> CacheEntry:
    """What one token stores for this branch."""
    heads = attention.heads
    if isinstance(heads, Latent):
        return CacheEntry(attention.span, 1, heads.kv_rank + heads.rotary_dim, heads.kv_rank, value_in_key=True)
    return CacheEntry(attention.span, heads.kv, heads.dim, heads.dim)


def cache_entries(architecture: Architecture) -> tuple[CacheEntry, ...]:
    """One entry an attention branch, in the order of the layers: the index is the branch's cache layer."""
    return tuple(cache_entry(attention) for attention in architecture.attentions)


class CacheView(Protocol):
    """What a forward pass sees of the cache: it stores this step's entries and attends over all that are visible."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, scores: Scores) -> Tensor:
        """Store the entries of this step's tokens and return what their queries attend to.

        layer: index into `cache_entries`. query (tokens, query heads, key_dim); key (tokens, heads, key_dim); value
        (tokens, heads, value_dim), or None where the entry keeps it in the key. Returns (tokens, query heads,
        value_dim).
        """
        ...
