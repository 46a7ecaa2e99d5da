"""Traces: a span for every call, and under it for each choice how long it was queued, in prefill and decoding.

The one file that knows OpenTelemetry. Spans go to a collector by OTLP over HTTP; one that is dead, slow or full costs
spans and nothing else. What is not set here follows OpenTelemetry's own variables, OTEL_TRACES_SAMPLER,
OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES among them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from server.aside import CLOSING_SECONDS, Aside
from server.call import Conversation, GenerateCall
from server.engine.request import Outcome, Trace
from server.engine.routes import summarise
from server.engine.stats import RequestStats
from server.errors import ServiceError

PATH = "/v1/traces"
EXPORT_SECONDS = 5.0  # of one batch
BATCH, WAITING = 512, 8192  # spans
LONGEST_NAME = 128
Attributes = dict[str, str | int | float]


class Tracing:
    """The service tells of calls, on the event loop; `ended` is told of requests, on the engine's thread."""

    def __init__(self, endpoint: str, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`endpoint`: the collector's base URL, as http://127.0.0.1:4318. `clock`: the service's."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it repeats itself; `_Counted` does not
        self._clock = clock
        self._aside = Aside[tuple[int, RequestStats]]("tracing", self._tell)
        self._provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + PATH, timeout=EXPORT_SECONDS)
        batches = BatchSpanProcessor(_Counted(exporter, self._aside.lose), WAITING, max_export_batch_size=BATCH)
        self._provider.add_span_processor(batches)
        self._tracer = self._provider.get_tracer("dyno", version)

    @property
    def lost(self) -> int:
        """Spans, and requests that should have become spans."""
        return self._aside.lost

    @contextmanager
    def calling(self, id: str, call: GenerateCall) -> Iterator[GenerateCall]:
        """A span of the call while the context lasts; what is inside gets the call with its place in the trace."""
        now = time.time_ns()
        began = now if call.arrived is None else now - _ns(self._clock() - call.arrived)
        name = "chat" if isinstance(call.prompts[0], Conversation) else "text_completion"
        attributes = _asked(id, name, call)
        above, kind = _context(call.trace), api.SpanKind.SERVER
        span = self._tracer.start_span(name, above, kind, attributes, start_time=began, record_exception=False)
        own = span.get_span_context()
        place = Trace(f"{own.trace_id:032x}", f"{own.span_id:016x}", own.trace_flags.sampled)
        try:
            yield replace(call, trace=place)
        except BaseException as error:
            span.set_attribute("error.type", _kind(error))
            span.set_status(api.StatusCode.ERROR)
            raise
        finally:
            span.end()

    def ended(self, stats: RequestStats) -> None:
        """A request has ended just now."""
        if stats.trace is not None and stats.trace.sampled:
            self._aside.put((time.time_ns(), stats))

    def close(self) -> None:
        """Send what waits, within seconds."""
        self._aside.close()
        sending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(CLOSING_SECONDS)

    def _tell(self, ended: tuple[int, RequestStats]) -> None:
        """Make the spans of a request that has ended: only then are its phases known, which lie end to end."""
        end, stats = ended
        began, latency = end - _ns(stats.latency.total), stats.latency
        choice = self._tracer.start_span("choice", _context(stats.trace), attributes=_found(stats), start_time=began)
        if stats.outcome not in (Outcome.STOP, Outcome.LENGTH):
            choice.set_status(api.StatusCode.ERROR)
        inside, at = api.set_span_in_context(choice), began
        for name, seconds in (("queued", latency.queued), ("prefill", latency.prefill), ("decode", latency.decode)):
            if seconds > 0:
                self._tracer.start_span(name, inside, start_time=at).end(at := at + _ns(seconds))
        choice.end(end)


class _Counted(SpanExporter):
    """Tells of spans that could not be sent."""

    def __init__(self, exporter: SpanExporter, lose: Callable[[str, int], None]) -> None:
        self._exporter, self._lose = exporter, lose

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lose("the collector does not take spans", len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _resource(version: str) -> Resource:
    """What every span is of: the operator's words (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) go before ours."""
    ours = Resource.create({"service.name": "dyno", "service.version": version})
    return ours.merge(OTELResourceDetector().detect())


def _context(trace: Trace | None) -> Context:
    """What a span under this place has for its context; None begins a trace."""
    if trace is None:
        return Context()
    flags = api.TraceFlags(api.TraceFlags.SAMPLED if trace.sampled else api.TraceFlags.DEFAULT)
    above = api.SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=flags)
    return api.set_span_in_context(api.NonRecordingSpan(above), Context())


def _asked(id: str, operation: str, call: GenerateCall) -> Attributes:
    """What a call asks for, by OpenTelemetry's names for generative AI, and never what was written."""
    wishes = call.sampling
    given = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "dyno",
        "gen_ai.response.id": id,
        "gen_ai.request.model": call.model and call.model[:LONGEST_NAME],
        "gen_ai.request.choice.count": call.n,
        "gen_ai.request.max_tokens": wishes.max_tokens,
        "gen_ai.request.temperature": wishes.temperature,
        "gen_ai.request.top_p": wishes.top_p,
        "gen_ai.request.top_k": wishes.top_k,
        "gen_ai.request.seed": wishes.seed,
        "dyno.tenant": call.tenant.name or None,
    }
    return {name: value for name, value in given.items() if value is not None and not _too_wide(value)}


def _found(stats: RequestStats) -> Attributes:
    attributes: Attributes = {
        "gen_ai.response.model": stats.model,
        "gen_ai.usage.input_tokens": stats.prompt_tokens,
        "gen_ai.usage.output_tokens": stats.completion_tokens,
        "dyno.choice": stats.choice,
        "dyno.outcome": str(stats.outcome),
        "dyno.cached_tokens": stats.cached_tokens,
        "dyno.recomputed_tokens": stats.recomputed_tokens,
        "dyno.preemptions": stats.preemptions,
        "dyno.steps": stats.steps,
        "dyno.mean_batch": stats.mean_batch,
        "dyno.cache_bytes": stats.cache_bytes,
        "dyno.flops": stats.compute.operations.total,
        "dyno.delayed_seconds": stats.latency.delayed,
        "dyno.preempted_seconds": stats.latency.preempted,
    }
    if stats.tenant:
        attributes["dyno.tenant"] = stats.tenant
    if stats.routing:
        routing = summarise(stats.routing)
        attributes["dyno.routing.entropy"] = routing.entropy
        attributes["dyno.routing.imbalance"] = routing.imbalance
        attributes["dyno.routing.busiest_share"] = routing.busiest_share
    return attributes


def _too_wide(value: object) -> bool:
    """Whether the protocol has no room for a number that nobody has checked yet."""
    return isinstance(value, int) and value.bit_length() > 63


def _kind(error: BaseException) -> str:
    return error.code if isinstance(error, ServiceError) else type(error).__name__


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
