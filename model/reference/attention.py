"""Attention head by head and query by query. Shape letters: T tokens, D width of a head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model import config
from model.reference.arithmetic import Weights, capped, linear, norm, sigmoid
from model.reference.position import alibi_slope, turned

Head = tuple[Tensor, Tensor, Tensor]  # query (T, D), key (T, D), value (T, inner)


def attention(x: Tensor, value: config.Attention, w: Weights) -> Tensor:
    if value.indexer is not None or isinstance(value.position, config.Buckets):
        raise NotImplementedError("the reference has neither sparse selection nor bucketed bias")
    heads = grouped_heads(x, value, w) if isinstance(value.heads, config.Grouped) else latent_heads(x, value, w)
    attended = [attend(head, index, value, w) for index, head in enumerate(heads)]
    if value.gate is not None:
        gates = linear(x, w.under("gate")).chunk(value.heads.query, -1)
        biases = w["gate_bias"] if value.gate.bias else [0.0] * value.heads.query
        attended = [y * sigmoid(gate + bias) for y, gate, bias in zip(attended, gates, biases, strict=True)]
    return linear(torch.cat(attended, -1), w.under("out"))


def grouped_heads(x: Tensor, value: config.Attention, w: Weights) -> Iterator[Head]:
    heads = value.heads
    assert isinstance(heads, config.Grouped)
    projected = linear(x, w.under("qkv"))
    if heads.clip is not None:
        projected = projected.clamp(-heads.clip, heads.clip)
    split = torch.split(projected, heads.dim, -1)
    raw_queries, raw_keys = split[: heads.query], split[heads.query : heads.query + heads.kv]
    values = raw_keys if heads.shared_value else split[heads.query + heads.kv :]
    queries = placed(raw_queries, heads.qk_norm, value.position, w.under("query_norm"))
    keys = placed(raw_keys, heads.qk_norm, value.position, w.under("key_norm"))
    for i, query in enumerate(queries):
        own = i * heads.kv // heads.query
        yield warmed(query, value.temperature), keys[own], norm(values[own], heads.value_norm, w.under("value_norm"))


def placed(heads: Sequence[Tensor], value: config.QKNorm | None, position: object, w: Weights) -> list[Tensor]:
    """Queries or keys, normed and turned in the order that the value asks for."""
    if value is None:
        return [turned(head, position) for head in heads]
    if value.after_rotation:
        return head_norms([turned(head, position) for head in heads], value, w)
    return [turned(head, position) for head in head_norms(heads, value, w)]


def head_norms(heads: Sequence[Tensor], value: config.QKNorm, w: Weights) -> list[Tensor]:
    if value.over == "head":
        return [norm(head, value.norm, w) for head in heads]
    if value.over == "each":
        return [norm(head, value.norm, w.row(i)) for i, head in enumerate(heads)]
    return list(norm(torch.cat(list(heads), -1), value.norm, w).chunk(len(heads), -1))


def latent_heads(x: Tensor, value: config.Attention, w: Weights) -> Iterator[Head]:
    """Expanded: every head gets its own keys and values back from the latent (arXiv:2405.04434 eq. 9-19)."""
    heads = value.heads
    assert isinstance(heads, config.Latent)
    low = norm(linear(x, w.under("query_down")), heads.norm, w.under("query_norm")) if heads.query_rank else x
    queries = linear(low, w.under("query_up")).chunk(heads.query, -1)
    down = linear(x, w.under("latent_down"))
    latent = norm(down[:, : heads.kv_rank], heads.norm, w.under("latent_norm"))
    shared = turned(down[:, heads.kv_rank :], value.position)
    for i, query in enumerate(queries):
        query = torch.cat((query[:, : heads.plain_dim], turned(query[:, heads.plain_dim :], value.position)), -1)
        key = torch.cat((latent @ w["key_up"][i].T, shared), -1)
        yield warmed(query, value.temperature), key, latent @ w["value_up"][i].T


def attend(head: Head, index: int, value: config.Attention, w: Weights) -> Tensor:
    """One head, query by query: softmax over the keys it sees; a sink takes its share and gives nothing."""
    query, key, stored = head
    rows = []
    for i in range(len(query)):
        seen = [j for j in range(i + 1) if sees(value.span, i, j)]
        scores = capped(query[i] @ key[seen].T * value.softmax_scale, value.softcap)
        if isinstance(value.position, config.Alibi):
            slope = alibi_slope(index, value.heads.query, value.position.maximum) * value.position.scale
            scores = scores - slope * scores.new_tensor([i - j for j in seen])
        weights = scores.exp()  # float64 holds this for scores up to 700
        total = weights.sum() + (w["sinks"][index].exp() if value.sinks else 0)
        rows.append(weights / total @ stored[seen])
    return torch.stack(rows)


def sees(span: config.Span, query: int, key: int) -> bool:
    """Whether a query position sees an earlier (or its own) key position."""
    match span:
        case config.Window(size):
            return query - key < size
        case config.Chunk(size):
            return query // size == key // size
        case _:
            return True


def warmed(query: Tensor, value: config.Temperature | None) -> Tensor:
    if value is None:
        return query
    growth = [1 + value.weight * math.log(1 + (i + value.offset) // value.floor) for i in range(len(query))]
    return query * query.new_tensor(growth)[:, None]
