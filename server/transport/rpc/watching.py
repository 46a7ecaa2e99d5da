"""WatchRouting: the live load of a model's experts as messages."""

from __future__ import annotations

from dataclasses import asdict

from dyno.inference.v1 import inference_pb2 as pb
from server.watching import LayerLoad, RoutingLoad


def load_message(load: RoutingLoad) -> pb.WatchRoutingResponse:
    return pb.WatchRoutingResponse(
        model=load.model,
        seconds=load.seconds,
        passes=load.passes,
        tokens=load.tokens,
        running=load.running,
        waiting=load.waiting,
        layers=[_layer(layer) for layer in load.layers],
    )


def _layer(layer: LayerLoad) -> pb.LayerLoad:
    """What could not be measured is left unset."""
    return pb.LayerLoad(**{name: value for name, value in asdict(layer).items() if value is not None})
