"""Live routing: what a server says of its experts while it works, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """One layer with experts, over the time that a load stands for."""

    layer: int
    expert_tokens: tuple[int, ...]
    entropy: float
    imbalance: float
    busiest_share: float
    distinct_experts: float
    margin: float


@dataclass(frozen=True, slots=True)
class RoutingLoad:
    """How a model's tokens spread over its experts in `seconds`."""

    model: str
    seconds: float
    passes: int
    tokens: int
    running: int
    waiting: int
    layers: tuple[LayerLoad, ...]


def load_from_json(data: Mapping[str, Any]) -> RoutingLoad:
    """An event of GET /v1/routing. Raises KeyError where a field is missing."""
    names = (name for name in RoutingLoad.__dataclass_fields__ if name != "layers")
    return RoutingLoad(**{name: data[name] for name in names}, layers=tuple(_layer(one) for one in data["layers"]))


def _layer(data: Mapping[str, Any]) -> LayerLoad:
    names = [name for name in LayerLoad.__dataclass_fields__ if name != "expert_tokens"]
    return LayerLoad(expert_tokens=tuple(data["expert_tokens"]), **{name: data[name] for name in names})
