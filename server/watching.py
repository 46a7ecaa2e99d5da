"""Live routing: how a model's tokens spread over its experts since one last looked, for as long as somebody watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model.routing import busiest_share, entropy, imbalance
from server.errors import InvalidValue, QueueFull, UnsupportedField, shown
from server.limits import Limits
from server.models import ServedModel
from server.tally import RoutingCounts

DEFAULT_INTERVAL = 1.0
LOOK_SECONDS = 0.2  # how late a watcher may notice that it is time to go


class RoutingSource(Protocol):
    """Where the facts of the engines were gathered."""

    def routing(self, model: str) -> RoutingCounts:
        """How a served model routed since it is served."""
        ...


class TooManyWatchers(QueueFull):
    code = "too_many_watchers"


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """One mixture layer over some time. None where there was nothing to measure: 0 would read as a collapse."""

    layer: int  # index of the block
    expert_tokens: tuple[int, ...]
    entropy: float | None
    imbalance: float | None
    busiest_share: float | None
    distinct_experts: float | None  # that a forward pass touched, mean of the passes
    margin: float | None  # mean of the tokens


@dataclass(frozen=True, slots=True)
class RoutingLoad:
    """A model's mixture layers over `seconds`; `running` and `waiting` are of its end."""

    model: str
    seconds: float
    passes: int
    tokens: int
    running: int
    waiting: int
    layers: tuple[LayerLoad, ...]


class RoutingWatch:
    """A watcher holds up nobody: it looks at counts that are kept anyway. One that reads slowly gets fewer loads, each
    of which stands for a longer time. Watchers are no calls in flight: a drain does not wait for them."""

    def __init__(
        self,
        limits: Limits,
        source: RoutingSource,
        find: Callable[[str | None], ServedModel],
        leaving: Callable[[ServedModel], bool],
        clock: Callable[[], float],
    ) -> None:
        """find: the served model of a name, or a ServiceError; leaving: whether a model or the server goes away."""
        self._limits, self._source, self._find, self._leaving, self._clock = limits, source, find, leaving, clock
        self._watchers = 0

    @asynccontextmanager
    async def loads(self, name: str | None, interval: float | None) -> AsyncIterator[AsyncIterator[RoutingLoad]]:
        """A load every `interval` seconds, until the model is no longer served. Raises ServiceError."""
        seconds = self._interval(interval)
        model = self._find(name)
        if not model.architecture.mixtures:
            raise UnsupportedField(f"model {shown(model.name)} has no experts to watch", param="model")
        if self._watchers >= self._limits.watchers:
            message = f"{self._watchers} watch already, which is the limit"
            raise TooManyWatchers(message, retry_after=self._limits.retry_after_seconds)
        self._watchers += 1
        try:
            yield self._watch(model, seconds)
        finally:
            self._watchers -= 1

    def _interval(self, wished: float | None) -> float:
        low, high = self._limits.watch_seconds
        seconds = DEFAULT_INTERVAL if wished is None else wished
        if not low <= seconds <= high:
            raise InvalidValue.between("interval", seconds, f"{low:g}", f"{high:g}")
        return seconds

    async def _watch(self, model: ServedModel, interval: float) -> AsyncIterator[RoutingLoad]:
        blocks = [block for block, _ in model.architecture.mixtures]
        before, since = self._source.routing(model.name), self._clock()
        while await self._stays(model, since + interval):
            after, now = self._source.routing(model.name), self._clock()
            yield load_between(model.name, blocks, before, after, now - since)
            before, since = after, now

    async def _stays(self, model: ServedModel, until: float) -> bool:
        """Wait; False as soon as the model is leaving. Raises what `find` does when nothing can be served any more."""
        while not self._leaving(model):
            self._find(model.name)
            left = until - self._clock()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, LOOK_SECONDS))
        return False


def load_between(
    model: str, blocks: list[int], before: RoutingCounts, after: RoutingCounts, seconds: float
) -> RoutingLoad:
    """What happened between two readings of the counts; `blocks`: where the mixture layers are."""
    passes, tokens = after.passes - before.passes, after.tokens - before.tokens
    distinct = _means(after.distinct - before.distinct, passes)
    margins = _means(after.margins - before.margins, tokens)
    layers = zip(blocks, before.loads, after.loads, distinct, margins, strict=True)
    return RoutingLoad(
        model=model,
        seconds=seconds,
        passes=passes,
        tokens=tokens,
        running=after.running,
        waiting=after.waiting,
        layers=tuple(_layer(block, new - old, touched, margin) for block, old, new, touched, margin in layers),
    )


def _means(sums: np.ndarray, count: int) -> list[float] | list[None]:
    return (sums / count).tolist() if count else [None] * len(sums)


def _layer(block: int, load: np.ndarray, distinct: float | None, margin: float | None) -> LayerLoad:
    some = bool(load.any())
    return LayerLoad(
        layer=block,
        expert_tokens=tuple(load.tolist()),
        entropy=float(entropy(load)) if some else None,
        imbalance=float(imbalance(load)) if some else None,
        busiest_share=float(busiest_share(load)) if some else None,
        distinct_experts=distinct,
        margin=margin,
    )
