"""What an operator goes by beyond the plain metrics: why requests wait, exemplars, windows of routing, bytes, the
request log, the names of others. Exact counts throughout."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from model.config import Full
from server.engine.request import Outcome
from server.engine.stats import GroupUse, Latency, RequestStats, Scarce
from server.engine.step import CacheGroup, Step
from server.metrics import PrometheusObserver
from server.windows import WINDOW_TOKENS, RoutingWindows
from tests.fakes import Clock, FakeRunner, make_request
from tests.server.callers import Caller, Refused, RestCaller, hang_up_after
from tests.server.doors import until
from tests.server.engine.conftest import Engine
from tests.server.kit import Harness, fake_model, running
from tests.server.test_metrics import CARD, NO_GAPS, observed, request, step

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROUTING = ("routing_entropy", "routing_imbalance", "gate_margin", "busiest_share")
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


def engine(registry: CollectorRegistry, **options: int) -> tuple[Engine, Clock]:
    """An engine of one-second steps over blocks of one token; one block is never given out."""
    clock = Clock()
    blocks = options.pop("blocks", 64)
    runner = FakeRunner(clock=clock, step_seconds=1.0, block_size=1, groups=(CacheGroup(Full(), blocks, 1),))
    observer = PrometheusObserver(registry)
    observer.declare(CARD, ())
    return Engine("m", runner, observer=observer, clock=clock, **options), clock


def waits(registry: CollectorRegistry) -> dict[str, float | None]:
    """Reasons that somebody waits for; every reason is there, the others with 0."""
    name = "dyno_requests_waiting_for"
    told = {why: registry.get_sample_value(name, {"model": "m", "reason": why}) for why in map(str, Scarce)}
    assert None not in told.values()
    return {why: count for why, count in told.items() if count}


def stalls(registry: CollectorRegistry) -> dict[str, float | None]:
    causes = ("queue", "cache", "prefill", "preemption", "overhead")
    name = "dyno_stall_seconds_total"
    return {cause: registry.get_sample_value(name, {"model": "m", "cause": cause}) for cause in causes}


async def test_who_waits_for_a_row_is_told_so_and_its_seconds_are_the_queues() -> None:
    registry = CollectorRegistry()
    made, _ = engine(registry, max_rows=1)
    for name in ("first", "second", "third"):
        made.add(make_request([1, 2], 3, id=name))
    made.step()
    assert waits(registry) == {"rows": 2}
    while made.has_work:
        made.step()
    assert waits(registry) == {}
    # Three steps each: the second waits 3 seconds and the third 6; nothing else is lost.
    assert stalls(registry) == {"queue": 9, "cache": 0, "prefill": 0, "preemption": 0, "overhead": 0}


async def test_who_waits_for_tokens_of_the_step_is_told_so() -> None:
    registry = CollectorRegistry()
    made, _ = engine(registry, max_batch_tokens=4)
    for name in ("first", "second"):
        made.add(make_request([1, 2, 3, 4], 1, id=name))
    made.step()
    assert waits(registry) == {"tokens": 1}


async def test_who_waits_for_blocks_is_told_so_and_its_seconds_are_the_caches() -> None:
    registry = CollectorRegistry()
    made, _ = engine(registry, blocks=7)
    made.add(make_request([1, 2, 3, 4], 2, id="first"))
    made.add(make_request([5, 6, 7, 8], 1, id="second"))
    made.step()
    assert waits(registry) == {"blocks": 1}
    while made.has_work:
        made.step()
    assert stalls(registry) == {"queue": 0, "cache": 2, "prefill": 0, "preemption": 0, "overhead": 0}


async def test_who_is_preempted_and_who_leaves_are_told_so() -> None:
    registry = CollectorRegistry()
    made, clock = engine(registry, blocks=9)
    made.add(make_request([1, 2, 3], 5, id="old"))
    made.add(make_request([4, 5, 6], 5, id="young"))
    made.step()
    while made.has_work and not made.num_waiting:
        made.step()
    lost_at = clock() - 1  # at the beginning of the step that has just run
    assert waits(registry) == {"blocks": 1}
    made.cancel("young")
    made.step()
    found = stalls(registry)
    assert found["preemption"] == clock() - 1 - lost_at, "until it left, before the last step"
    assert registry.get_sample_value("dyno_preemptions_total", {"model": "m"}) == 1
    assert registry.get_sample_value("dyno_requests_total", {"model": "m", "outcome": "cancelled"}) == 1


async def test_what_a_preempted_request_computes_again_is_not_lost_twice() -> None:
    """Steps of a second, one after another: all of a request's time is in a queue, in passes of its own or lost."""
    registry = CollectorRegistry()
    made, _ = engine(registry, blocks=9)
    ended: list[RequestStats] = []
    made._observer.finished = ended.append  # type: ignore[method-assign]
    for name in ("old", "young"):
        made.add(make_request([1, 2, 3], 5, id=name))
    while made.has_work:
        made.step()
    old, young = sorted(ended, key=lambda stats: stats.id)
    assert (old.preemptions, young.preemptions) == (0, 1)
    for latency in (old.latency, young.latency):
        assert latency.total == latency.queued + latency.forward + latency.preempted
    assert young.latency.preempted > 0


async def test_the_parts_of_a_stall_come_from_the_account() -> None:
    registry, observer = observed()
    latency = Latency(2.0, 1.0, 3.0, 5.0, NO_GAPS, 10.0, forward=4.0, delayed=0.5, preempted=1.0)
    observer.finished(request(latency=latency, short_of_blocks=1.5))
    assert stalls(registry) == {"queue": 0.5, "cache": 1.5, "prefill": 0.5, "preemption": 1.0, "overhead": 3.0}


async def test_time_per_token_is_of_requests_with_two() -> None:
    registry, observer = observed()
    latency = Latency(0.0, 1.0, 1.0, 6.0, NO_GAPS, 7.0)
    observer.finished(request(completion_tokens=4, latency=latency))
    observer.finished(request(completion_tokens=1, latency=latency))
    assert registry.get_sample_value("dyno_request_token_seconds_count", {"model": "m"}) == 1
    assert registry.get_sample_value("dyno_request_token_seconds_sum", {"model": "m"}) == 2


async def test_overhead_is_the_rest_of_a_step() -> None:
    registry, observer = observed()
    observer.stepped(step(seconds=0.5, forward_seconds=0.25))
    assert registry.get_sample_value("dyno_step_overhead_seconds_sum", {"model": "m"}) == 0.25


async def test_a_window_is_told_of_once_it_is_full_and_phases_do_not_mix() -> None:
    windows = RoutingWindows([4, 4, 4])
    even, one = np.array([[128] * 4] * 3), np.array([[512, 0, 0, 0]] * 3)
    windows.enter("decode", WINDOW_TOKENS - 1, even, np.zeros(3))
    assert windows.closed["early", "decode"].entropy.count == 0
    windows.enter("decode", 1, np.zeros((3, 4), np.int64), np.array([256.0, 128.0, 0.0]))
    windows.enter("prefill", WINDOW_TOKENS, one, np.full(3, 512.0))
    early, late = windows.closed["early", "decode"], windows.closed["late", "decode"]
    assert (early.entropy.count, early.entropy.sum, early.imbalance.sum, early.busiest_share.sum) == (1, 1.0, 1.0, 0.25)
    assert (early.gate_margin.sum, late.gate_margin.sum) == (0.5, 0.0)
    prompts = windows.closed["middle", "prefill"]
    assert (prompts.entropy.sum, prompts.imbalance.sum, prompts.busiest_share.sum) == (0.0, 4.0, 1.0)
    windows.enter("prefill", WINDOW_TOKENS, even, np.zeros(3))
    assert (prompts.entropy.count, prompts.entropy.sum) == (2, 1.0), "a window forgets the one before"


async def test_layers_with_different_numbers_of_experts_share_a_band() -> None:
    windows = RoutingWindows([2, 4])
    windows.enter("decode", WINDOW_TOKENS, np.array([[512, 0, 0, 0], [128] * 4]), np.zeros(2))
    assert {band for band, _ in windows.closed} == {"early", "middle"}
    assert windows.closed["early", "decode"].busiest_share.sum == 1.0
    assert windows.closed["middle", "decode"].busiest_share.sum == 0.25


async def test_exemplars_name_calls_as_their_callers_know_them(server: Harness) -> None:
    body = {"model": "fake", "prompt": "abc", "max_tokens": 4, "dyno": {}}
    async with server.session.post(f"{server.url}/v1/completions", json=body) as response:
        id, (told,) = response.headers["x-request-id"], (await response.json())["dyno"]["choices"]
    await server.settled()
    async with server.session.get(f"{server.url}/metrics", headers=OPENMETRICS) as response:
        families = list(openmetrics(await response.text()))
    named = {
        family.name: {s.exemplar.labels["request_id"] for s in family.samples if s.exemplar is not None}
        for family in families
        if family.type == "histogram"
    }
    times = ("time_to_first_token", "inter_token", "request_token", "e2e_request", "queue", "prefill", "decode")
    of_routing = {f"dyno_request_{name}" for name in ROUTING}
    with_names = {f"dyno_{time}_seconds" for time in times} | of_routing
    assert {name for name, ids in named.items() if ids} == with_names
    assert all(id in named[name] for name in with_names)
    hot = max(told["routing"]["layers"], key=lambda layer: layer["busiest_share"])
    expert = f"{hot['layer']}/{hot['expert_tokens'].index(max(hot['expert_tokens']))}"
    routed = [s for f in families if f.name in of_routing for s in f.samples if s.exemplar is not None]
    assert {s.exemplar.labels["hot_expert"] for s in routed if s.exemplar.labels["request_id"] == id} == {expert}
    inside = [float(s.labels["le"]) >= s.exemplar.value for f in families for s in f.samples if s.exemplar is not None]
    assert inside and all(inside), "an exemplar belongs into its bucket"


async def test_open_calls_and_bytes_are_those_of_the_caller(caller: Caller, server: Harness) -> None:
    transport = "rest" if "Rest" in type(caller).__name__ else "grpc"
    before = await server.total("dyno_transport_bytes_total", transport=transport, direction="received")
    waiting = asyncio.create_task(caller.stream(model="slow", prompt="x" * 40, max_tokens=30, ignore_eos=True))
    await asyncio.sleep(0.1)
    scrape, around = transport == "rest", type(caller).__name__ == "ManyCaller"
    assert await server.total("dyno_transport_open_calls", transport=transport) == 1 + scrape + around
    await waiting
    with pytest.raises(Refused):
        await caller.whole(model="slow", prompt="x", temperature=-1)
    await hang_up_after(caller, 1, model="slow", prompt="x", max_tokens=50)
    await server.settled()
    assert await server.total("dyno_transport_open_calls", transport=transport) == scrape
    assert await server.total("dyno_transport_bytes_total", transport=transport, direction="received") > before + 40


async def test_bytes_of_rest_are_exact(server: Harness) -> None:
    async def moved(direction: str) -> float:
        return await server.total("dyno_transport_bytes_total", transport="rest", direction=direction)

    body = json.dumps({"model": "fake", "prompt": "abc", "max_tokens": 4}).encode()
    received, sent, scrape = await moved("received"), await moved("sent"), 0
    async with server.session.get(f"{server.url}/metrics") as response:
        scrape = len(await response.read())
    before = await moved("sent")
    assert before - sent >= scrape, "what is scraped counts as well"
    async with server.session.post(
        f"{server.url}/v1/completions", data=body, headers={"content-type": "application/json"}
    ) as response:
        await response.read()
    assert await moved("received") - received == len(body)


async def phases(server: Harness) -> dict[str, float]:
    names = ("loading", "ready", "draining", "down")
    return {phase: await server.total("dyno_phase", phase=phase) for phase in names}


async def test_the_phase_is_told(server: Harness) -> None:
    assert await phases(server) == {"loading": 0, "ready": 1, "draining": 0, "down": 0}


@pytest.mark.asyncio(loop_scope="function")
async def test_an_engine_that_stands_still_is_down_until_it_moves() -> None:
    gate = threading.Event()

    def stuck(step: Step) -> None:
        if any(len(row.request.prompt) == 5 for row in step.rows):
            gate.wait(10)

    async with running(fake_model(fault=stuck), stall_seconds=0.1) as server:
        with pytest.raises(Refused):
            await RestCaller(server).whole(prompt="stuck")
        assert await phases(server) == {"loading": 0, "ready": 0, "draining": 0, "down": 1}
        gate.set()
        await until(lambda: server.app.service.alive)
        assert await phases(server) == {"loading": 0, "ready": 1, "draining": 0, "down": 0}


@pytest.fixture
async def telling(tmp_path: Path) -> AsyncIterator[tuple[Harness, Path]]:
    path = tmp_path / "requests.jsonl"
    async with running(fake_model("fake"), peer_metrics=True, request_log=str(path)) as harness:
        yield harness, path


@pytest.mark.asyncio(loop_scope="function")
async def test_every_request_has_a_line_and_none_has_a_word(telling: tuple[Harness, Path]) -> None:
    server, path = telling
    secret = "xyzzy-plugh"
    body = {"model": "fake", "prompt": f"{secret} {secret}", "max_tokens": 4, "n": 2, "user": "team-7"}
    given = {"x-request-id": "my-own_7"}
    async with server.session.post(f"{server.url}/v1/completions", json=body, headers=given) as response:
        assert response.headers["x-request-id"] == "my-own_7"
        usage = (await response.json())["usage"]
    give_up = time.monotonic() + 5
    while path.read_text().count("\n") < 2 and time.monotonic() < give_up:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    text = path.read_text()
    assert secret not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert sorted(line["choice"] for line in lines) == [0, 1]
    assert {(line["given_id"], line["user"]) for line in lines} == {("my-own_7", "team-7")}
    assert len({line["id"] for line in lines}) == 1 and lines[0]["id"] != "my-own_7"
    assert sum(line["completion_tokens"] for line in lines) == usage["completion_tokens"]
    assert {line["prompt_tokens"] for line in lines} == {usage["prompt_tokens"]}
    assert all(line["model"] == "fake" and line["latency"]["total"] > 0 for line in lines)
    assert all(line["routing"]["experts"] > 0 for line in lines)


@pytest.mark.asyncio(loop_scope="function")
async def test_the_names_of_others_have_the_same_counts(telling: tuple[Harness, Path]) -> None:
    server, _ = telling
    body = {"model": "fake", "prompt": "abcdef", "max_tokens": 5, "ignore_eos": True}
    for _ in range(3):
        async with server.session.post(f"{server.url}/v1/completions", json=body) as response:
            assert response.status == 200
    await server.settled()
    for theirs, ours in {
        "vllm:prompt_tokens_total": "dyno_prompt_tokens_total",
        "vllm:generation_tokens_total": "dyno_generated_tokens_total",
        "vllm:prefix_cache_hits_total": "dyno_cached_tokens_total",
        "vllm:time_to_first_token_seconds_count": "dyno_time_to_first_token_seconds_count",
        "vllm:e2e_request_latency_seconds_sum": "dyno_e2e_request_seconds_sum",
        "gen_ai_server_request_duration_seconds_sum": "dyno_e2e_request_seconds_sum",
        "gen_ai_server_time_to_first_token_seconds_sum": "dyno_time_to_first_token_seconds_sum",
    }.items():
        assert await server.total(theirs) == pytest.approx(await server.total(ours)) != 0, theirs
    assert await server.total("vllm:request_success_total", finished_reason="length") == 3
    assert await server.total("gen_ai_server_time_per_output_token_seconds_count") == 3
    assert await server.total("vllm:cache_config_info", block_size="4", num_gpu_blocks="64") == 1


async def test_the_cache_is_as_large_as_the_blocks_that_keep_every_token() -> None:
    """A window's group is smaller, whichever comes first."""
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry, peers=True)
    observer.declare(CARD, (), block_tokens=16, groups=(GroupUse(10, 0, 0), GroupUse(64, 0, 0)))
    at = {"model_name": "m", "block_size": "16", "num_gpu_blocks": "64"}
    assert registry.get_sample_value("vllm:cache_config_info", at) == 1


async def test_nothing_has_the_names_of_others_unasked(server: Harness) -> None:
    assert [name for name, _ in await server.series() if not name.startswith(("dyno_", "process_"))] == []


async def test_answers_that_failed_are_apart_under_opentelemetrys_names() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry, peers=True)
    observer.declare(CARD, ())
    for outcome in Outcome:
        observer.finished(request(outcome, routing=()))
    name = "gen_ai_server_request_duration_seconds_count"
    at = {"gen_ai_operation_name": "text_completion", "gen_ai_provider_name": "dyno", "gen_ai_request_model": "m"}
    counts = {error: registry.get_sample_value(name, at | {"error_type": error}) for error in ("", "error", "deadline")}
    assert counts == {"": 2, "error": 1, "deadline": 1}
    assert registry.get_sample_value("gen_ai_server_time_to_first_token_seconds_count", at) == 2
