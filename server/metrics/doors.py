"""What the transports and the service tell: calls, answers, bytes, the phase of the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from server.metrics.families import Models
from server.service import Phase
from server.tally import OUTCOMES, UNKNOWN, DoorTally


def of_doors(models: Models, doors: DoorTally) -> Iterator[Metric]:
    """Requests that came and how they ended, and what both transports did."""
    yield from _requests(models, doors)
    text = "Calls that are being answered."
    calls = GaugeMetricFamily("dyno_transport_open_calls", text, labels=["transport"])
    for transport, count in doors.open.items():
        calls.add_metric([transport], count)
    yield calls
    text = "Bodies of REST and messages of gRPC."
    moved = CounterMetricFamily("dyno_transport_bytes", text, labels=["transport", "direction"])
    for way, count in doors.bytes.items():
        moved.add_metric(way, count)
    yield moved
    answers = CounterMetricFamily("dyno_transport_requests", "Answers by code.", labels=["transport", "method", "code"])
    for labels, count in list(doors.answers.items()):
        answers.add_metric(labels, count)
    yield answers


def of_phase(now: str) -> Metric:
    """Which phase the server is in."""
    family = GaugeMetricFamily("dyno_phase", "1 for the phase the server is in.", labels=["phase"])
    for phase in Phase:
        family.add_metric([phase], phase == now)
    return family


def of_losses(losses: Mapping[str, int]) -> Metric:
    """What was to be told of requests and was not."""
    text = "Log lines, spans and observations that were lost."
    family = CounterMetricFamily("dyno_lost", text, labels=["what"])
    for what, count in losses.items():
        family.add_metric([what], count)
    return family


def _requests(models: Models, doors: DoorTally) -> Iterator[Metric]:
    """Received is the sum of the outcomes, once nothing is in flight."""
    outcomes = Counter(dict(list(doors.unserved.items())))  # others go on counting meanwhile
    received = Counter[str]()
    for (model, _), count in outcomes.items():
        received[model] += count
    for model, watched in models.items():
        # Ends first: what ends in between would have ended before it came.
        outcomes.update({(model, outcome): count for outcome, count in watched.tally.outcomes.items()})
        received[model] += watched.tally.received
    names = (*models, UNKNOWN)
    came = CounterMetricFamily("dyno_requests_received", "Requests that came in.", labels=["model"])
    ended = CounterMetricFamily("dyno_requests", "Requests that ended.", labels=["model", "outcome"])
    for model in names:
        came.add_metric([model], received[model])
        for outcome in OUTCOMES:
            ended.add_metric([model, outcome], outcomes[model, outcome])
    yield from (came, ended)
