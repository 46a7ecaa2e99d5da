"""Routing in few series, however many experts there are: windows of tokens, by band of layers and phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from model.routing import busiest_share, entropy, imbalance
from server.buckets import IMBALANCES, MARGINS, SHARES, Buckets

BANDS = ("early", "middle", "late")
PHASES = ("prefill", "decode")
WINDOW_TOKENS = 512
"""A few tokens cannot spread over many experts: what is told of fewer would be their number, not the router."""


@dataclass(slots=True)
class Open:
    """The window that a phase is filling."""

    loads: np.ndarray  # (mixture layers, most experts)
    margins: np.ndarray
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Closed:
    """What one band's windows of one phase were like; each is counted once, as the mean of its layers."""

    entropy: Buckets = field(default_factory=lambda: Buckets(SHARES))
    imbalance: Buckets = field(default_factory=lambda: Buckets(IMBALANCES))
    busiest_share: Buckets = field(default_factory=lambda: Buckets(SHARES))
    gate_margin: Buckets = field(default_factory=lambda: Buckets(MARGINS))


class RoutingWindows:
    """Written by one thread. A step with any token of a prompt counts as prefill, whole."""

    def __init__(self, experts: Sequence[int]) -> None:
        """`experts`: their number in each mixture layer."""
        self._experts = tuple(experts)
        shape = (len(experts), max(experts, default=0))
        bands = [BANDS[len(BANDS) * layer // len(experts)] for layer in range(len(experts))]
        self._bands = {band: [i for i, own in enumerate(bands) if own == band] for band in dict.fromkeys(bands)}
        self._open = {phase: Open(np.zeros(shape, np.int64), np.zeros(len(experts))) for phase in PHASES}
        self.closed = {(band, phase): Closed() for band in self._bands for phase in PHASES}

    def enter(self, phase: str, tokens: int, loads: np.ndarray, margins: np.ndarray) -> None:
        """A step of so many tokens of this phase, with loads and margins as StepStats has them."""
        window = self._open[phase]
        window.loads += loads
        window.margins += margins
        window.tokens += tokens
        if window.tokens >= WINDOW_TOKENS:
            self._close(phase, window)

    def _close(self, phase: str, window: Open) -> None:
        for band, layers in self._bands.items():
            loads = [window.loads[layer, : self._experts[layer]] for layer in layers]
            closed = self.closed[band, phase]
            closed.entropy.observe(_mean(entropy, loads))
            closed.imbalance.observe(_mean(imbalance, loads))
            closed.busiest_share.observe(_mean(busiest_share, loads))
            closed.gate_margin.observe(float(window.margins[layers].mean()) / window.tokens)
        window.loads[:], window.margins[:], window.tokens = 0, 0.0, 0


def _mean(measure: Callable[[np.ndarray], np.ndarray], loads: Sequence[np.ndarray]) -> float:
    return float(np.mean([measure(load) for load in loads]))
