"""Live routing: what a server says of its experts while it works, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """One layer with experts, over the time that a load stands for. None where there was nothing to measure."""

    layer: int
    expert_tokens: tuple[int, ...]
    entropy: float | None
    imbalance: float | None
    busiest_share: float | None
    distinct_experts: float | None
    margin: float | None


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
    layers = tuple(_layer(one) for one in data["layers"])
    return measured(RoutingLoad(**{name: data[name] for name in names}, layers=layers))


def measured(load: RoutingLoad) -> RoutingLoad:
    """The load with None in place of what says 0 because there was nothing to measure, as messages do."""
    return replace(load, layers=tuple(_measured(layer, load) for layer in load.layers))


def _measured(layer: LayerLoad, load: RoutingLoad) -> LayerLoad:
    if not any(layer.expert_tokens):
        layer = replace(layer, entropy=None, imbalance=None, busiest_share=None)
    return replace(
        layer,
        distinct_experts=layer.distinct_experts if load.passes else None,
        margin=layer.margin if load.tokens else None,
    )


def _layer(data: Mapping[str, Any]) -> LayerLoad:
    names = [name for name in LayerLoad.__dataclass_fields__ if name != "expert_tokens"]
    return LayerLoad(expert_tokens=tuple(data["expert_tokens"]), **{name: data[name] for name in names})
