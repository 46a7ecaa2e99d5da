"""The Prometheus observer.

Nothing here locks or looks up a label while a model runs: facts go into plain tallies, and a collector turns these into
series when somebody scrapes.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import exposition as plain
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from model import machine
from model.roofline import Machine
from server.calllog import CallLog
from server.engine.stats import GroupUse, RequestStats, StepStats
from server.metrics.doors import of_doors, of_losses, of_phase
from server.metrics.families import of_models
from server.metrics.peers import GenAi, of_peers
from server.metrics.tenants import TenantTally, of_tenants
from server.metrics.watched import Watched
from server.models import ModelCard
from server.tally import UNKNOWN, Door, DoorTally, EngineTally, RoutingCounts

AS_THEY_ARE = "allow-utf-8"
MOST_EXPERTS = 4096  # of a model; above it, layers only


class PrometheusObserver(Collector):
    """Takes facts from engines, service and, through their doors, transports and gives them to a registry.

    Engines are heard from once they are declared: what a model does before, warming up, is nobody's request.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        version: str = "",
        most_expert_series: int = MOST_EXPERTS,
        peers: bool = False,
        ended: Sequence[Callable[[RequestStats], None]] = (),
    ) -> None:
        """`registry` None: one of its own. `peers`: also under the names of others. Each of `ended` is told of every
        request that is counted."""
        self.phase: Callable[[], str] | None = None  # of the server, once somebody knows
        self.losses: Callable[[], Mapping[str, int]] | None = None  # of telemetry, by what; likewise
        self._registry = registry or CollectorRegistry()
        self._build = {
            "version": version,
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
            "processor": machine.processor().get("model name", platform.machine()),
            "cores": str(machine.cores()),
        }
        self._most_expert_series = most_expert_series
        self._watched: dict[str, Watched] = {}
        self._genai: dict[str, GenAi] | None = {} if peers else None
        self._ended = ended
        self._served, self._refused = TenantTally(), TenantTally()  # of the engine's thread, and of the event loop's
        self._doors, self._lines = DoorTally(), CallLog()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def declare(
        self,
        card: ModelCard,
        layers: Iterable[tuple[int, int]],
        roofs: Machine | None = None,
        block_tokens: int = 0,
        groups: tuple[GroupUse, ...] = (),
    ) -> None:
        """Count this model from now on; `layers`: block index and number of experts of every mixture layer; `roofs`:
        what the machine can do for it, where that was measured; `block_tokens`: of a cache block; `groups`: blocks at
        the beginning."""
        shape = tuple(layers)
        tally = EngineTally([experts for _, experts in shape], roofs is not None, groups)
        watched = Watched(card, shape, tally, roofs, block_tokens)
        if self._genai is not None:
            self._genai = {**self._genai, card.id: GenAi()}
        self._watched = {**self._watched, card.id: watched}  # a new one: a scrape may be reading the old one

    def forget(self, model: str) -> None:
        """Count this model no more: its series end."""
        self._watched = {name: watched for name, watched in self._watched.items() if name != model}
        if self._genai is not None:
            self._genai = {name: tally for name, tally in self._genai.items() if name != model}

    def exposition(self, accept: str) -> tuple[Callable[[], bytes], str]:
        """How what a scrape gets is written, and its content type: OpenMetrics where `accept` has it, else plain text.

        No name is escaped, whatever a scraper understands: all of them are names by Prometheus' oldest rules, colons
        included.
        """
        wanted = "application/openmetrics-text" in accept
        write: Callable[..., bytes] = openmetrics.generate_latest if wanted else plain.generate_latest
        kind = openmetrics.CONTENT_TYPE_LATEST if wanted else plain.CONTENT_TYPE_PLAIN_0_0_4
        return lambda: write(self._registry, escaping=AS_THEY_ARE), kind

    def door(self, transport: str) -> Door:
        """Where a transport, "rest" or "grpc", tells of its calls."""
        return Door(self._doors, transport, self._lines)

    def groups(self, model: str) -> tuple[GroupUse, ...]:
        """Blocks of each cache group after the last step; empty before the first."""
        return self._watched[model].tally.groups

    def routing(self, model: str) -> RoutingCounts:
        """How a model routed since it was declared."""
        return self._watched[model].tally.routing()

    # ------------------------------------------------------------------------------------------ facts come in

    def received(self, model: str, prompt_tokens: int) -> None:
        if model in self._watched:
            self._watched[model].tally.received += 1

    def stepped(self, stats: StepStats) -> None:
        if stats.model in self._watched:
            self._watched[stats.model].tally.step(stats)

    def finished(self, stats: RequestStats) -> None:
        if stats.model not in self._watched:
            return
        self._watched[stats.model].tally.finish(stats)
        if self._genai is not None and stats.model in self._genai:
            self._genai[stats.model].finish(stats)
        tenant, lengths = stats.tenant, (stats.prompt_tokens, stats.completion_tokens)
        self._served.ended(tenant, str(stats.outcome), 1, *lengths)
        for tell in self._ended:
            tell(stats)

    def unserved(self, model: str | None, outcome: str, count: int, tenant: str) -> None:
        self._doors.unserved[model or UNKNOWN, str(outcome)] += count
        self._refused.ended(tenant, str(outcome), count)

    # ------------------------------------------------------------------------------------------ series go out

    def describe(self) -> Iterable[Metric]:
        return ()  # names are known without reading the tallies

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("dyno_build", "What runs, and on what.", self._build)
        if self.phase is not None:
            yield of_phase(self.phase())
        if self.losses is not None:
            yield of_losses(self.losses())
        models, genai = self._watched, self._genai
        yield from of_doors(models, self._doors)
        yield from of_tenants((self._served, self._refused))
        yield from of_models(models, self._most_expert_series)
        if genai is not None:
            yield from of_peers(models, genai)
