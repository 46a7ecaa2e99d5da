"""Attention over pages of cache that the compiled kernel (native/attend.h) reads in place: single tokens and stretches
of tokens of one step in one call, which stores what they add to the pools first.

Shape letters: those of paged.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.kernels import native
from model.kernels.attention import Scores, Selection
from model.kernels.native import address

if TYPE_CHECKING:
    from model.kernels.paged import Entries, Pages, Stretch

KINDS = (torch.float32, torch.bfloat16)
WIDEST = 1024  # numbers of a key or value that stretches are taken with


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Pools:
    """The pools of keys and values of each cache layer (None where values lie in the keys), and the group of layers it
    belongs to; a step makes one call for each group."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor | None]
    groups: Sequence[int]


class _Stretch(ctypes.Structure):
    """native/stretch.h: Stretch."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("start", "stop", "position", "base")),
        ("table", ctypes.c_void_p),
    )


class _SelectionStruct(ctypes.Structure):
    """native/choose.h: Selection."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "weights")),
        *((name, ctypes.c_int64) for name in ("heads", "dim", "most")),
    )


class Call(ctypes.Structure):
    """native/attend.h: AttendCall. Made once for the places of a step; every layer fills in the rest."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "heads", "kv_heads", "key_dim", "value_dim", "page_size")),
        *((name, ctypes.c_int64) for name in ("table_width", "stored_key", "stored_value", "query_stride")),
        *((name, ctypes.c_void_p) for name in ("pages", "starts", "firsts", "lasts", "tokens", "slopes", "sinks")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value")),
        *((name, ctypes.c_int64) for name in ("key_stride", "value_stride")),
        ("slots", ctypes.c_void_p),
        ("fresh", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "out", "stretches")),
        ("count", ctypes.c_int64),
        ("seen_from", ctypes.c_void_p),
        ("selection", _SelectionStruct),
    )

    def __init__(
        self,
        size: int,
        pages: Pages | None,
        tokens: Tensor | None = None,
        stretches: Sequence[Stretch] = (),
        firsts: Tensor | None = None,
    ) -> None:
        """size: P. pages: of the tokens that stand alone, which are `tokens` (R,) of the step, None: all it has.
        Further rows of pages, which only fill a step up, are not looked at.

        stretches: the other tokens; firsts (T,): the first position that each of the step's tokens sees.
        """
        alone = 0 if tokens is None else len(tokens)
        super().__init__(
            rows=alone, page_size=size, count=len(stretches), tokens=address(tokens), seen_from=address(firsts)
        )
        if pages is not None:
            self.table_width = pages.table.shape[1]
            self.pages, self.starts = address(pages.table), address(pages.starts)
            self.firsts, self.lasts = address(pages.first), address(pages.last)
        listed = [_Stretch(s.start, s.stop, s.position, s.base, address(s.table)) for s in stretches]
        self._listed = (_Stretch * len(listed))(*listed)
        self.stretches = ctypes.cast(self._listed, ctypes.c_void_p)
        self._kept = pages, tokens, stretches, firsts  # their memory

    def take(self, slots: Tensor) -> Call:
        """Make the call ask about all tokens of the step and first store them at their slots (T,). Returns itself."""
        tokens = slots.shape[0]
        if not self.count:
            self.rows = tokens
        self.slots, self.fresh = address(slots), tokens
        return self


def fits(query: Tensor, value_dim: int, scores: Scores, stretches: bool) -> bool:
    """Whether the compiled kernel takes such heads."""
    known = query.dtype in KINDS and query.device.type == "cpu" and scores.bias is None
    if not known or native.library() is None:
        return False
    dims = query.shape[2], value_dim, 0 if scores.selection is None else scores.selection.query.shape[2]
    wide = all(dim % 16 == 0 and dim <= WIDEST for dim in dims)
    return not stretches or (wide and query.dtype in native.linear_types())


def attend(
    call: Call,
    query: Tensor,
    keys: Tensor,
    values: Tensor | None,
    value_dim: int,
    scores: Scores,
    fresh: Entries | None,
) -> Tensor:
    """query (T, H, D), keys (pages, P, K, D), values (pages, P, K, V) or None where they are the keys' first V numbers
    → (T, H, V). fresh: entries of the same tokens, stored in the pools first. With a selection keys are as many numbers
    longer as its heads score."""
    query = _by_tokens(query)
    out = query.new_empty(len(query), query.shape[1], value_dim)
    stored = keys if values is None else values
    if not call.count:
        call.rows = len(query)
    call.heads, call.kv_heads, call.key_dim, call.value_dim = query.shape[1], keys.shape[2], query.shape[2], value_dim
    call.stored_key, call.stored_value, call.query_stride = keys.shape[3], stored.shape[3], query.stride(0)
    chosen = scores.selection
    asked = () if chosen is None else tuple(x.contiguous() for x in (chosen.query, chosen.weights))
    call.selection = _SelectionStruct(*map(address, asked), *_sizes(chosen))
    sinks = None if scores.sinks is None else scores.sinks.float()
    call.slopes, call.sinks = address(scores.slopes), address(sinks)
    call.scale, call.softcap = scores.scale, scores.softcap or 0.0
    call.query, call.keys, call.values, call.out = map(address, (query, keys, stored, out))
    call.slots = None
    if fresh is not None:
        key, value = _by_tokens(fresh.key), None
        if values is not None and fresh.value is not None:
            value = _by_tokens(fresh.value)
        call.key, call.value, call.slots, call.fresh = address(key), address(value), address(fresh.slots), len(key)
        call.key_stride, call.value_stride = key.stride(0), 0 if value is None else value.stride(0)
    native.call("dyno_attend", query.dtype, ctypes.byref(call))
    return out


def _sizes(chosen: Selection | None) -> tuple[int, ...]:
    """Small heads, their dimension, and how many keys they choose; nothing of none."""
    return () if chosen is None else (*chosen.query.shape[1:], chosen.top_k)


def _by_tokens(x: Tensor) -> Tensor:
    """x (T, heads, dim) with each token's numbers contiguous, copied only where they are not."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
