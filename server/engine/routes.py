"""How a request's tokens were routed: the log while it lives, the summary of each layer at its end. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.routing import busiest_share, entropy, expert_choices, expert_loads, imbalance
from server.engine.request import Routes
from server.engine.stats import LayerRouting, RoutingSummary
from server.engine.step import MixtureShape


class RouteLog:
    """The routes of one request by position: a token that is computed again overwrites what it had.

    Rows are copied in, so that no step's whole array is kept alive by one slow request.
    """

    def __init__(self, mixtures: tuple[MixtureShape, ...]) -> None:
        self._length = 0
        self._experts = np.empty((0, 0, 0), np.int16)
        self._gates = np.empty((0, 0, 0), np.float32)
        self._margins = np.empty((0, 0), np.float32)
        self._limited = any(shape.limited for shape in mixtures)
        self._no_choices = np.zeros((len(mixtures), max(shape.experts for shape in mixtures)), np.int64)
        self._choices, self._counted = self._no_choices, 0

    def __len__(self) -> int:
        return self._length

    def write(self, start: int, experts: np.ndarray, gates: np.ndarray, margins: np.ndarray) -> None:
        """Note the tokens from position `start` on, one row each; `start` is at most the length so far."""
        stop = start + len(experts)
        if stop > len(self._experts):
            self._grow(stop, experts.shape[1:])
        self._experts[start:stop] = experts
        self._gates[start:stop] = gates
        self._margins[start:stop] = margins
        self._length = max(self._length, stop)

    def all(self) -> Routes:
        return self._whole.part(0, self._length)

    def copy(self, start: int, stop: int) -> Routes:
        return Routes(*(column[start:stop].copy() for column in _columns(self._whole)))

    def prior(self, stop: int) -> np.ndarray | None:
        """For models whose routers have a capacity, how many tokens before position `stop` chose each expert.

        (mixture layers, most experts) int64. Counts on from the call before; only a preemption makes it start anew.
        """
        if not self._limited:
            return None
        if stop < self._counted:
            self._choices, self._counted = self._no_choices, 0
        if stop > self._counted:
            new = expert_choices(self._experts[self._counted : stop], self._no_choices.shape[1])
            self._choices, self._counted = self._choices + new, stop
        return self._choices

    @property
    def _whole(self) -> Routes:
        return Routes(self._experts, self._gates, self._margins)

    def _grow(self, needed: int, shape: tuple[int, ...]) -> None:
        """Make room; `shape` is that of one token: (mixture layers, top-k)."""
        rows, old = max(needed, 2 * len(self._experts), 32), self.all()
        self._experts = np.empty((rows, *shape), np.int16)
        self._gates = np.empty((rows, *shape), np.float32)
        self._margins = np.empty((rows, shape[0]), np.float32)
        if len(old):
            for column, before in zip(_columns(self._whole), _columns(old), strict=True):
                column[: len(old)] = before


def _columns(routes: Routes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return routes.experts, routes.gates, routes.margins


def layer_routing(routes: Routes, mixtures: tuple[MixtureShape, ...]) -> tuple[LayerRouting, ...]:
    """What each mixture layer did with these tokens."""
    if not len(routes):
        return tuple(LayerRouting(shape.layer, (0,) * shape.experts, 0, 0.0, 0.0, 0.0, 0.0, 0.0) for shape in mixtures)
    loads, dropped = expert_loads(routes.experts, max(shape.experts for shape in mixtures))
    gates = routes.gates[:, :, 0].mean(axis=0, dtype=np.float64).tolist()
    margins = routes.margins.mean(axis=0, dtype=np.float64).tolist()
    told: dict[int, LayerRouting] = {}
    for experts in {shape.experts for shape in mixtures}:  # of layers that have as many, all at once
        own = [at for at, shape in enumerate(mixtures) if shape.experts == experts]
        load, lost = loads[own, :experts], dropped[own]
        measures = (load, lost, entropy(load), imbalance(load), busiest_share(load, lost))
        columns = (measure.tolist() for measure in measures)
        for at, tokens, lacking, even, uneven, share in zip(own, *columns, strict=True):
            numbers = even, uneven, share, gates[at], margins[at]
            told[at] = LayerRouting(mixtures[at].layer, tuple(tokens), lacking, *numbers)
    return tuple(told[at] for at in range(len(mixtures)))


def summarise(routing: Sequence[LayerRouting]) -> RoutingSummary:
    """What follows from one or more layers together."""
    count = len(routing)
    return RoutingSummary(
        layers=count,
        dropped=sum(layer.dropped for layer in routing),
        touched_experts=sum(tokens > 0 for layer in routing for tokens in layer.expert_tokens),
        experts=sum(len(layer.expert_tokens) for layer in routing),
        entropy=sum(layer.entropy for layer in routing) / count,
        lowest_entropy=min(layer.entropy for layer in routing),
        imbalance=sum(layer.imbalance for layer in routing) / count,
        highest_imbalance=max(layer.imbalance for layer in routing),
        busiest_share=sum(layer.busiest_share for layer in routing) / count,
        mean_gate=sum(layer.mean_gate for layer in routing) / count,
        margin=sum(layer.margin for layer in routing) / count,
    )
