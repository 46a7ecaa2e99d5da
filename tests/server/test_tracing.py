"""Traces: a collector gets a span for every call and its phases, callers' traces go on, a dead one costs nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server import aside
from server.engine.request import Trace
from server.transport.ids import trace_of
from tests.server.doors import header, write_keys
from tests.server.kit import Harness, fake_model, running

TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{ABOVE}-01", f"00-{TRACE}-{ABOVE}-00"
BODY = {"model": "fake", "prompt": "abcdef", "max_tokens": 5, "ignore_eos": True}


@dataclass
class Collector:
    """What an OTLP collector was sent."""

    url: str = ""
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        if self.status == 200:
            for resource in sent.resource_spans:
                self.resources.append(values(resource.resource.attributes))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.status, content_type="application/x-protobuf")

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@asynccontextmanager
async def collecting(status: int = 200) -> AsyncIterator[Collector]:
    collector = Collector(status=status)
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()


@asynccontextmanager
async def traced(**more: Any) -> AsyncIterator[tuple[Harness, Collector]]:
    """A server and its collector, which has everything once the server has stopped."""
    async with (
        collecting() as collector,
        running(fake_model("fake"), fake_model("slow", sleep=0.01), otlp_endpoint=collector.url, **more) as s,
    ):
        yield s, collector


async def ask(server: Harness, body: dict[str, Any] | None = None, **headers: str) -> int:
    async with server.session.post(f"{server.url}/v1/completions", json=BODY | (body or {}), headers=headers) as answer:
        await answer.read()
        return answer.status


async def ask_grpc(server: Harness, **metadata: str) -> None:
    request = pb.GenerateRequest(model="fake", prompt="abcdef", sampling=pb.SamplingParameters(max_tokens=5))
    request.sampling.ignore_eos = True
    async with grpc.aio.insecure_channel(server.target) as channel:
        await InferenceServiceStub(channel).Generate(request, metadata=tuple(metadata.items()))


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_a_call_is_a_span_and_its_phases_lie_end_to_end_under_it(transport: str) -> None:
    async with traced() as (server, collector):
        if transport == "rest":
            assert await ask(server, traceparent=SAMPLED) == 200
        else:
            await ask_grpc(server, traceparent=SAMPLED)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    [call], [choice] = collector.named("text_completion"), collector.named("choice")
    assert (call.parent_span_id.hex(), call.kind) == (ABOVE, Span.SPAN_KIND_SERVER)
    assert choice.parent_span_id == call.span_id
    phases = [collector.named(name)[0] for name in ("queued", "prefill", "decode")]
    assert {phase.parent_span_id for phase in phases} == {choice.span_id}
    edges = [choice.start_time_unix_nano, *(phase.end_time_unix_nano for phase in phases)]
    assert [phase.start_time_unix_nano for phase in phases] == edges[:-1]
    assert edges[-1] <= choice.end_time_unix_nano + 1_000
    assert call.start_time_unix_nano - 5e6 <= choice.start_time_unix_nano
    assert choice.end_time_unix_nano <= call.end_time_unix_nano + 5e6
    told = values(choice.attributes)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (6, 5)
    assert told["dyno.outcome"] == "length" and 0 < told["dyno.routing.entropy"] <= 1
    assert values(call.attributes)["gen_ai.request.model"] == "fake"
    assert "dyno.tenant" not in told, "who comes without a key"
    assert collector.resources[0]["service.name"] == "dyno"


async def test_spans_have_the_name_of_the_key(tmp_path: Path) -> None:
    async with traced(api_keys_file=write_keys(tmp_path / "keys", "alice")) as (server, collector):
        assert await ask(server, **header("alice")) == 200
    for name in ("text_completion", "choice"):
        [span] = collector.named(name)
        assert values(span.attributes)["dyno.tenant"] == "alice"


async def test_what_the_operator_calls_the_service_goes_before_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,service.version=9,deployment.environment.name=test")
    names = []
    for given in ("", "shop"):
        monkeypatch.setenv("OTEL_SERVICE_NAME", given)
        async with traced() as (server, collector):
            await ask(server)
        names.append(collector.resources[0]["service.name"])
    assert names == ["a", "shop"]
    assert collector.resources[0]["service.version"] == "9"
    assert collector.resources[0]["deployment.environment.name"] == "test"


async def test_a_call_without_a_trace_begins_one_and_each_choice_has_a_span() -> None:
    async with traced() as (server, collector):
        await ask(server, {"n": 3, "prompt": "secret words"})
        await ask(server)
    first, second = collector.named("text_completion")
    assert first.trace_id != second.trace_id and not first.parent_span_id
    numbers = [values(s.attributes)["dyno.choice"] for s in collector.named("choice") if s.trace_id == first.trace_id]
    assert sorted(numbers) == [0, 1, 2]
    assert b"secret" not in b"".join(span.SerializeToString() for span in collector.spans)


async def test_what_goes_wrong_is_told_by_its_code() -> None:
    async with traced() as (server, collector):
        assert await ask(server, {"temperature": -1}) == 400
        assert await ask(server, {"model": "nobody"}) == 404
        assert await ask(server, {"seed": 2**62, "top_k": 2**70}) == 400
        late = aiohttp.ClientTimeout(total=0.1)
        with pytest.raises(TimeoutError):
            body = BODY | {"model": "slow", "max_tokens": 200}
            await server.session.post(f"{server.url}/v1/completions", json=body, timeout=late)
        await server.settled()
    failed = [span for span in collector.named("text_completion") if span.status.code == Status.STATUS_CODE_ERROR]
    kinds = [values(span.attributes)["error.type"] for span in failed]
    assert kinds == ["invalid_value", "model_not_found", "invalid_value", "CancelledError"]
    [choice] = collector.named("choice")
    assert values(choice.attributes)["dyno.outcome"] == "cancelled"
    assert choice.status.code == Status.STATUS_CODE_ERROR


async def test_what_its_caller_does_not_record_is_not_recorded() -> None:
    async with traced() as (server, collector):
        await ask(server, traceparent=UNSAMPLED)
    assert collector.spans == []


async def test_the_trace_is_in_the_request_log_and_among_the_exemplars_without_a_collector(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    async with running(fake_model("fake"), request_log=str(path)) as server:
        await ask(server, traceparent=UNSAMPLED)
        await server.settled()
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        async with server.session.get(f"{server.url}/metrics", headers=accept) as response:
            families = list(openmetrics(await response.text()))
    assert json.loads(path.read_text())["trace_id"] == TRACE
    exemplars = [s.exemplar.labels for f in families for s in f.samples if s.exemplar is not None]
    assert exemplars and {labels["trace_id"] for labels in exemplars} == {TRACE}


@pytest.mark.parametrize("kind", ["nobody listens", "refuses"])
async def test_a_dead_collector_changes_nothing(kind: str) -> None:
    async with collecting(status=400) as collector:
        endpoint = collector.url if kind == "refuses" else "http://127.0.0.1:9"
        async with running(fake_model("fake"), otlp_endpoint=endpoint) as server:
            found = await asyncio.gather(*(ask(server) for _ in range(20)))
            assert found == [200] * 20
            tracing = server.app._tracing
            began = time.monotonic()
        assert tracing is not None
        assert time.monotonic() - began < 2 * aside.CLOSING_SECONDS + 2
        if kind == "refuses":
            assert tracing.lost == 20 * 5


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (SAMPLED, Trace(TRACE, ABOVE, True)),
        (UNSAMPLED, Trace(TRACE, ABOVE, False)),
        (f"01-{TRACE}-{ABOVE}-03-more", Trace(TRACE, ABOVE, True)),
        (f"00-{TRACE}-{ABOVE}-01-more", None),
        (f"ff-{TRACE}-{ABOVE}-01", None),
        (f"00-{'0' * 32}-{ABOVE}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (SAMPLED.upper(), None),
        ("", None),
        (None, None),
    ],
)
def test_the_callers_place_is_read_as_w3c_has_it(said: str | None, found: Trace | None) -> None:
    assert trace_of(said) == found
