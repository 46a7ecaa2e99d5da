"""Attention branches: each declares what a token stores (model/cache.py) and calls `attend` of its cache view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model import config
from model.cache import CacheView, MemoryView
from model.indexer import Indexer
from model.kernels.attention import Scores
from model.norm import build_norm
from model.position import Bias, alibi_slopes, rotate


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every branch of one forward pass shares: positions (tokens,), the cache, what each position table gives for
    this step, and the memory where there is one."""

    positions: Tensor
    cache: CacheView
    turns: tuple[tuple[Tensor, Tensor] | Bias, ...]
    memory: MemoryView | None = None

    def turn(self, table: int) -> tuple[Tensor, Tensor]:
        """(cos, sin) of a rotary table."""
        turn = self.turns[table]
        assert isinstance(turn, tuple)
        return turn

    def bias(self, table: int) -> Bias:
        """The Bias of the bucket table with this index."""
        bias = self.turns[table]
        assert not isinstance(bias, tuple)
        return bias


class _Attention(nn.Module):
    """What grouped and latent attention have in common: score constants, temperature, gate, output projection."""

    slopes: Tensor | None

    def __init__(self, value: config.Attention, width: int, layer: int, table: int | None, inner: int) -> None:
        super().__init__()
        self.value, self.layer, self.table = value, layer, table
        heads = value.heads.query
        alibi = value.position if isinstance(value.position, config.Alibi) else None
        slopes = None if alibi is None else alibi_slopes(heads, alibi.maximum) * alibi.scale
        self.register_buffer("slopes", slopes, persistent=False)
        self.sinks = nn.Parameter(torch.zeros(heads)) if value.sinks else None
        self.out = nn.Linear(heads * inner, width, bias=value.out_bias)
        self.gate = None
        if value.gate is not None:
            rows = heads * (inner if value.gate.over == "element" else 1)
            self.gate = nn.Linear(width, rows, bias=False)
        self.gate_bias = nn.Parameter(torch.zeros(heads)) if value.gate is not None and value.gate.bias else None

    def scores(self, around: Surroundings) -> Scores:
        value = self.value
        bias = None
        if self.table is not None and isinstance(value.position, config.Buckets):
            bias = around.bias(self.table)
        return Scores(value.softmax_scale, value.softcap, self.slopes, self.sinks, bias)

    def turn(self, x: Tensor, around: Surroundings) -> Tensor:
        """Rotate x (tokens, heads, dim) as the position value says."""
        if self.table is None or not isinstance(self.value.position, config.Rotary):
            return x
        return rotate(x, around.turn(self.table), self.value.position.layout)

    def warm(self, query: Tensor, positions: Tensor) -> Tensor:
        """Grow the queries with position, where the value has a temperature."""
        temperature = self.value.temperature
        if temperature is None:
            return query
        growth = torch.log1p(torch.floor((positions + temperature.offset) / temperature.floor))
        return query * (1 + temperature.weight * growth)[:, None, None].to(query.dtype)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """attended (tokens, heads, inner) → (tokens, width), gated by the branch's input x where there is a gate."""
        if self.gate is not None:
            gate = self.gate(x).unflatten(-1, (attended.shape[1], -1))
            attended = attended * torch.sigmoid(gate if self.gate_bias is None else gate + self.gate_bias[:, None])
        out: Tensor = self.out(attended.flatten(1))
        return out


class GroupedAttention(_Attention):
    """Multi-head, grouped-query and multi-query attention; one projection gives queries, keys and values."""

    def __init__(self, value: config.Attention, width: int, layer: int, table: int | None) -> None:
        heads = value.heads
        assert isinstance(heads, config.Grouped)
        super().__init__(value, width, layer, table, heads.dim)
        self.heads = heads
        kinds = 1 if heads.shared_value else 2
        self.qkv = nn.Linear(width, (heads.query + kinds * heads.kv) * heads.dim, bias=heads.bias)
        self.query_norm = _head_norm(heads.qk_norm, heads.query, heads.dim)
        self.key_norm = _head_norm(heads.qk_norm, heads.kv, heads.dim)
        self.value_norm = build_norm(heads.value_norm, heads.dim)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        heads = self.heads
        projected = self.qkv(x)
        if heads.clip is not None:
            projected = projected.clamp(-heads.clip, heads.clip)
        projected = projected.unflatten(-1, (-1, heads.dim))
        turning, stored = projected[:, : heads.query + heads.kv], projected[:, -heads.kv :]
        query, key = self._place(turning, around)
        query = self.warm(query, around.positions)
        attended = around.cache.attend(self.layer, query, key, self.value_norm(stored), self.scores(around))
        return self.finish(x, attended)

    def _place(self, turning: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        """Norm and rotate queries and keys, in the order the value asks for."""
        norm = self.heads.qk_norm
        if norm is None or norm.after_rotation:
            turning = self.turn(turning, around)
        query, key = turning.split((self.heads.query, self.heads.kv), dim=1)
        if norm is None:
            return query, key
        query, key = self._norm(query, self.query_norm), self._norm(key, self.key_norm)
        return (query, key) if norm.after_rotation else (self.turn(query, around), self.turn(key, around))

    def _norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        assert self.heads.qk_norm is not None
        y: Tensor = norm(x.flatten(1)).view_as(x) if self.heads.qk_norm.over == "width" else norm(x)
        return y


def _head_norm(value: config.QKNorm | None, heads: int, dim: int) -> nn.Module:
    if value is None or value.over == "head":
        return build_norm(None if value is None else value.norm, dim)
    return build_norm(value.norm, dim * heads) if value.over == "width" else build_norm(value.norm, dim, heads)


class LatentAttention(_Attention):
    """Multi-head latent attention, absorbed: queries are taken into the latent space, so that what is stored is what is
    scored (arXiv:2405.04434 §2.1.2). A token stores its latent and one rotary key that all heads share."""

    def __init__(self, value: config.Attention, width: int, layer: int, table: int | None) -> None:
        heads = value.heads
        assert isinstance(heads, config.Latent)
        super().__init__(value, width, layer, table, heads.value_dim)
        self.heads = heads
        rank = heads.query_rank
        self.query_down = nn.Linear(width, rank, bias=heads.bias) if rank else nn.Identity()
        self.query_norm = build_norm(heads.norm if rank else None, rank or width)
        self.query_up = nn.Linear(rank or width, heads.query * heads.dim, bias=False)
        self.latent_down = nn.Linear(width, heads.kv_rank + heads.rotary_dim, bias=heads.bias)
        self.latent_norm = build_norm(heads.norm, heads.kv_rank)
        self.key_up = nn.Parameter(torch.empty(heads.query, heads.plain_dim, heads.kv_rank))
        self.value_up = nn.Parameter(torch.empty(heads.query, heads.value_dim, heads.kv_rank))
        nn.init.normal_(self.key_up, std=heads.kv_rank**-0.5)
        nn.init.normal_(self.value_up, std=heads.kv_rank**-0.5)
        self.indexer = None
        if value.indexer is not None:
            assert rank is not None
            self.indexer = Indexer(value.indexer, width, rank)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        heads = self.heads
        low = self.query_norm(self.query_down(x))
        query = self.query_up(low).unflatten(-1, (heads.query, heads.dim))
        plain, rotary = query.split((heads.plain_dim, heads.rotary_dim), dim=-1)
        latent, shared = self.latent_down(x).split((heads.kv_rank, heads.rotary_dim), dim=-1)
        absorbed = torch.einsum("thp,hpr->thr", plain, self.key_up)
        query = torch.cat((absorbed, self.turn(rotary, around)), dim=-1)
        key = torch.cat((self.latent_norm(latent)[:, None], self.turn(shared[:, None], around)), dim=-1)
        query = self.warm(query, around.positions)
        scores = self.scores(around)
        if self.indexer is not None:
            selection, small = self.indexer(x, low, None if self.table is None else around.turn(self.table))
            key, scores = torch.cat((key, small), dim=-1), replace(scores, selection=selection)
        attended = around.cache.attend(self.layer, query, key, None, scores)
        return self.finish(x, torch.einsum("thr,hvr->thv", attended, self.value_up))


MODULES = {config.Grouped: GroupedAttention, config.Latent: LatentAttention}
