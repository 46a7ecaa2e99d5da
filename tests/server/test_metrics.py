"""The metrics are true: nothing is counted twice, nothing is lost, and no caller can make a series."""

from __future__ import annotations

import asyncio
import importlib.metadata
from dataclasses import replace

import aiohttp
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from model import machine
from model.operations import Operations
from model.roofline import Machine
from server.engine.request import Outcome
from server.engine.stats import Compute, GroupUse, Latency, LayerRouting, RequestStats, Spread, StepStats
from server.limits import Limits
from server.metrics import PrometheusObserver
from server.models import ModelCard
from server.tally import UNKNOWN
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller, hang_up_after, leave_unanswered
from tests.server.kit import ACTIVE, LAYERS, Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

CARD = ModelCard("m", 64, 257, 20, 10, 8, 32, False, "latent", "rotary", "1 of 2 experts", "float32", "whole", {}, {})
NO_GAPS = Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0)


def step(**more: object) -> StepStats:
    values = {
        "model": "m",
        "number": 1,
        "seconds": 0.01,
        "forward_seconds": 0.008,
        "rows": 2,
        "prefill_tokens": 5,
        "decode_tokens": 1,
        "recomputed_tokens": 0,
        "preemptions": 0,
        "running": 2,
        "waiting": 1,
        "groups": (GroupUse(8, 3, 2),),
        "expert_tokens": np.array([[4, 2], [1, 5]]),
        "first_tokens": (0.02,),
        "gaps": (0.01, 0.7),
        "compute": Compute(Operations(1, 2, 3, 4, 5, 6), 100.0, 20, 30, 6, 1.0, 0.008),
        "distinct_experts": np.array([2, 1]),
        "margins": np.array([1.5, 0.6]),
    }
    return StepStats(**values | more)  # type: ignore[arg-type]


def request(outcome: Outcome = Outcome.STOP, **more: object) -> RequestStats:
    first = LayerRouting(0, (3, 1), 0, 0.8, 1.5, 0.75, 0.6, 0.25)
    routing = (first, LayerRouting(1, (2, 2), 0, 1.0, 1.0, 0.5, 0.6, 0.15))
    values = {
        "id": "r",
        "model": "m",
        "outcome": outcome,
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "cached_tokens": 4,
        "recomputed_tokens": 0,
        "preemptions": 0,
        "steps": 3,
        "mean_batch": 1.0,
        "cache_bytes": 64,
        "latency": Latency(0.001, 0.02, 0.021, 0.05, NO_GAPS, 0.08),
        "routed_tokens": 4,
        "routing": routing,
    }
    return RequestStats(**values | more)  # type: ignore[arg-type]


def observed(**options: int) -> tuple[CollectorRegistry, PrometheusObserver]:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry, **options)  # type: ignore[arg-type]
    observer.declare(CARD, [(0, 2), (3, 2)])
    return registry, observer


async def test_a_step_is_counted_where_it_belongs() -> None:
    registry, observer = observed()
    observer.stepped(step(drafted_tokens=4, accepted_tokens=3))
    observer.stepped(step(rows=0, running=0, waiting=0, first_tokens=(), gaps=()))
    value = registry.get_sample_value
    assert value("dyno_drafted_tokens_total", {"model": "m"}) == 4
    assert value("dyno_accepted_tokens_total", {"model": "m"}) == 3
    assert value("dyno_step_seconds_count", {"model": "m"}) == 1, "nothing ran in the second"
    assert value("dyno_requests_running", {"model": "m"}) == 0
    assert value("dyno_time_to_first_token_seconds_sum", {"model": "m"}) == 0.02
    assert value("dyno_inter_token_seconds_count", {"model": "m"}) == 2
    assert value("dyno_inter_token_seconds_bucket", {"model": "m", "le": "0.01"}) == 1, "bounds are inclusive"
    assert value("dyno_generated_tokens_total", {"model": "m"}) == 3
    assert value("dyno_computed_tokens_total", {"model": "m", "phase": "prefill"}) == 5
    assert value("dyno_batch_tokens_sum", {"model": "m"}) == 6
    assert value("dyno_cache_blocks_used", {"model": "m", "group": "0"}) == 3
    assert value("dyno_cache_blocks_capacity", {"model": "m", "group": "0"}) == 8
    assert value("dyno_expert_tokens_total", {"model": "m", "layer": "3", "expert": "1"}) == 5
    assert value("dyno_layer_expert_tokens_total", {"model": "m", "layer": "0"}) == 6
    assert value("dyno_layer_load_imbalance", {"model": "m", "layer": "0"}) == pytest.approx(4 / 3)
    assert value("dyno_layer_gate_margin", {"model": "m", "layer": "3"}) == pytest.approx(0.6 / 6)
    assert value("dyno_distinct_experts_total", {"model": "m", "layer": "0"}) == 2
    assert value("dyno_flops_total", {"model": "m", "part": "scores"}) == 2
    assert value("dyno_flops_total", {"model": "m", "part": "head"}) == 6
    moved = {"weights_read": 100, "cache_read": 20, "cache_written": 30}
    assert {kind: value("dyno_moved_bytes_total", {"model": "m", "kind": kind}) for kind in moved} == moved
    assert value("dyno_forward_passes_total", {"model": "m"}) == 1


async def test_a_request_is_counted_where_it_belongs() -> None:
    registry, observer = observed()
    observer.received("m", 5)
    observer.finished(request())
    observer.unserved("m", "rejected", 1, "")
    observer.unserved(None, "cancelled", 1, "")
    value = registry.get_sample_value
    assert value("dyno_requests_received_total", {"model": "m"}) == 2
    assert value("dyno_requests_received_total", {"model": UNKNOWN}) == 1
    assert value("dyno_requests_total", {"model": "m", "outcome": "stop"}) == 1
    assert value("dyno_requests_total", {"model": "m", "outcome": "rejected"}) == 1
    assert value("dyno_requests_total", {"model": UNKNOWN, "outcome": "cancelled"}) == 1
    assert value("dyno_prompt_tokens_total", {"model": "m"}) == 5
    assert value("dyno_cached_tokens_total", {"model": "m"}) == 4
    assert value("dyno_queue_seconds_sum", {"model": "m"}) == 0.001
    assert value("dyno_decode_seconds_sum", {"model": "m"}) == 0.05
    assert value("dyno_request_routing_entropy_sum", {"model": "m"}) == pytest.approx(0.9)
    assert value("dyno_request_routing_imbalance_sum", {"model": "m"}) == pytest.approx(1.25)
    assert value("dyno_request_gate_margin_sum", {"model": "m"}) == pytest.approx(0.2)


async def test_a_request_that_never_drew_a_token_has_no_prefill_or_decode_time() -> None:
    registry, observer = observed()
    observer.finished(request(Outcome.CANCELLED, completion_tokens=0, routed_tokens=0))
    assert registry.get_sample_value("dyno_e2e_request_seconds_count", {"model": "m"}) == 1
    for name in ("dyno_prefill_seconds_count", "dyno_decode_seconds_count", "dyno_request_routing_entropy_count"):
        assert registry.get_sample_value(name, {"model": "m"}) == 0


async def test_a_large_model_has_series_of_its_layers_only() -> None:
    registry, observer = observed(most_expert_series=3)
    observer.stepped(step())
    assert registry.get_sample_value("dyno_expert_tokens_total", {"model": "m", "layer": "0", "expert": "0"}) is None
    assert registry.get_sample_value("dyno_layer_expert_tokens_total", {"model": "m", "layer": "0"}) == 6


async def test_what_an_architecture_is_can_be_joined_with_its_load() -> None:
    registry, _ = observed()
    words = {"attention": "latent", "position": "rotary", "feed_forward": "1 of 2 experts", "dtype": "float32"}
    assert registry.get_sample_value("dyno_model_info", {"model": "m", "weights": "whole", **words}) == 1
    assert registry.get_sample_value("dyno_model_parameters", {"model": "m", "kind": "active"}) == 10
    assert registry.get_sample_value("dyno_model_cache_bytes_per_token", {"model": "m"}) == 8
    assert registry.get_sample_value("dyno_model_state_bytes", {"model": "m"}) == 32


async def test_what_runs_and_on_what_is_told() -> None:
    registry, _ = observed()
    (build,) = (family for family in registry.collect() if family.name == "dyno_build")
    (sample,) = build.samples
    assert sample.labels["torch"] == importlib.metadata.version("torch")
    assert sample.labels["processor"] in machine.words()
    assert int(sample.labels["cores"]) == machine.cores()


async def test_what_the_machine_can_do_is_told_where_it_was_measured() -> None:
    registry, observer = observed()
    bandwidth, rate = "dyno_machine_read_bytes_per_second", "dyno_machine_matrix_flops_per_second"
    assert registry.get_sample_value(bandwidth, {"model": "m"}) is None
    observer.declare(CARD, [(0, 2), (3, 2)], Machine(memory=1.0, bandwidth=2e10, flops=3e12))
    assert registry.get_sample_value(bandwidth, {"model": "m"}) == 2e10
    assert registry.get_sample_value(rate, {"model": "m"}) == 3e12


async def test_the_least_a_step_could_take_is_told_beside_what_it_took() -> None:
    registry, observer = observed()
    observer.declare(CARD, [(0, 2), (3, 2)], Machine(memory=1.0, bandwidth=200.0, flops=100.0))
    work = Compute(Operations(projections=400, head=100), 400.0, 150, 50, 6, 1.0, 7.5, compute_bound_seconds=5.0)
    observer.stepped(step(compute=work, seconds=8.0, forward_seconds=7.5))
    decoding = replace(work, compute_bound_seconds=0.0, memory_bound_seconds=3.0)
    observer.stepped(step(compute=decoding, prefill_tokens=0, seconds=4.25, forward_seconds=4.0))

    def value(name: str, phase: str) -> float | None:
        return registry.get_sample_value(name, {"model": "m", "phase": phase})

    assert [value("dyno_step_phase_seconds_total", phase) for phase in ("prefill", "decode")] == [8.0, 4.25]
    assert [value("dyno_forward_seconds_total", phase) for phase in ("prefill", "decode")] == [7.5, 4.0]
    assert [value("dyno_forward_least_seconds_total", phase) for phase in ("prefill", "decode")] == [5.0, 3.0]
    bounds = {bound: {"model": "m", "bound": bound} for bound in ("memory", "compute")}
    told = {b: registry.get_sample_value("dyno_forward_bound_seconds_total", labels) for b, labels in bounds.items()}
    assert told == {"memory": 3.0, "compute": 5.0}


async def test_without_the_machines_limits_there_is_no_share() -> None:
    registry, observer = observed()
    observer.stepped(step())
    labels = {"model": "m", "phase": "prefill"}
    assert registry.get_sample_value("dyno_forward_seconds_total", labels) == 0.008
    assert registry.get_sample_value("dyno_forward_least_seconds_total", labels) is None
    assert registry.get_sample_value("dyno_forward_bound_seconds_total", {"model": "m", "bound": "memory"}) is None


async def test_a_model_that_warms_up_is_not_heard() -> None:
    registry, observer = observed()
    observer.received("w", 3)
    observer.stepped(step(model="w"))
    observer.finished(request(model="w"))
    assert registry.get_sample_value("dyno_requests_received_total", {"model": "w"}) is None


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_the_exposition_is_valid_and_its_names_are_right(accept: str, server: Harness) -> None:
    async with server.session.get(f"{server.url}/metrics", headers={"accept": accept}) as response:
        text = await response.text()
        assert response.headers["content-type"].startswith(accept.split(";")[0])
    families = list((openmetrics if "openmetrics" in accept else plain)(text))
    assert "_created" not in text
    for family in families:
        assert family.name.startswith(("dyno_", "process_")), family.name
        assert not family.name.endswith(("_ms", "_seconds_total_total"))
        assert family.documentation
    buckets = {s.labels["le"] for f in families for s in f.samples if s.name == "dyno_inter_token_seconds_bucket"}
    assert {"0.0005", "60.0"} <= {str(float(le)) for le in buckets if le != "+Inf"}
    for name in ("dyno_e2e_request_seconds_bucket", "dyno_decode_seconds_bucket"):
        bounds = {float(s.labels["le"]) for f in families for s in f.samples if s.name == name}
        assert {60.0, Limits().request_seconds} <= bounds, "as far as a request may take"
    async with server.session.head(f"{server.url}/metrics") as response:
        assert response.status == 200 and await response.read() == b""


async def test_received_is_the_sum_of_outcomes_to_the_last_one(caller: Caller, server: Harness) -> None:
    """A script of every kind of end, and the caller's own tally."""
    names = ("stop", "length", "cancelled", "deadline", "rejected", "error")
    before = {name: await server.total("dyno_requests_total", outcome=name) for name in names}
    received = await server.total("dyno_requests_received_total")
    slow = {"model": "slow", "prompt": "abc", "max_tokens": 100, "ignore_eos": True}
    deadline = 3 if isinstance(caller, RpcCaller) else 0
    calls = [
        *(caller.stream(model="fake", prompt=f"q{i}", max_tokens=4, ignore_eos=True) for i in range(10)),
        *(caller.whole(model="story", prompt="x", max_tokens=100) for _ in range(7)),
        *(caller.whole(model="story", prompt="x", max_tokens=100, temperature=-1) for _ in range(5)),
        *(caller.whole(model="nobody", prompt="x") for _ in range(4)),
        *(caller.stream(**slow, seconds=0.2) for _ in range(deadline)),
        *(hang_up_after(caller, 2, **slow) for _ in range(3)),
        *(leave_unanswered(caller, 0.2, **slow) for _ in range(2)),
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, Refused) for answer in answers) == 5 + 4 + deadline
    await server.settled()
    after = {name: await server.total("dyno_requests_total", outcome=name) for name in names}
    expected = {"stop": 7, "length": 10, "cancelled": 5, "deadline": deadline, "rejected": 9, "error": 0}
    assert {name: after[name] - before[name] for name in names} == expected
    assert await server.total("dyno_requests_received_total") - received == sum(expected.values())


async def test_routed_tokens_are_tokens_times_top_k_times_layers(caller: Caller, server: Harness) -> None:
    names = ("fake", "slow")
    calls = [caller.stream(model=names[i % 2], prompt=f"prompt {i}", max_tokens=9, n=1 + i % 3) for i in range(12)]
    await asyncio.gather(*calls, hang_up_after(caller, 1, model="slow", prompt="gone", max_tokens=50))
    await server.settled()
    for model in names:
        computed = await server.total("dyno_computed_tokens_total", model=model)
        assert await server.total("dyno_expert_tokens_total", model=model) == computed * ACTIVE * LAYERS
        assert await server.total("dyno_layer_expert_tokens_total", model=model) == computed * ACTIVE * LAYERS


async def test_tokens_are_counted_as_the_answers_have_them(caller: Caller, server: Harness) -> None:
    names = ("dyno_prompt_tokens_total", "dyno_cached_tokens_total", "dyno_generated_tokens_total")
    before = [await server.total(name, model="fake") for name in names]
    told = [(await caller.whole(model="fake", prompt="count these", max_tokens=6))[0].facts["usage"] for _ in range(4)]
    await server.settled()
    after = [await server.total(name, model="fake") for name in names]
    keys = ("prompt_tokens", "cached_tokens", "completion_tokens")
    assert [a - b for a, b in zip(after, before, strict=True)] == [sum(usage[key] for usage in told) for key in keys]


async def test_histograms_agree_with_what_callers_are_told(caller: Caller, server: Harness) -> None:
    names = ("time_to_first_token", "e2e_request", "queue", "prefill", "decode")
    before = [await server.total(f"dyno_{name}_seconds_sum", model="slow") for name in names]
    gaps = await server.total("dyno_inter_token_seconds_count", model="slow")
    [told] = await caller.stream(model="slow", prompt="abc", max_tokens=6, ignore_eos=True)
    await server.settled()
    latency = told.facts["latency"]
    keys = ("first_token", "total", "queued", "prefill", "decode")
    for name, key, old in zip(names, keys, before, strict=True):
        assert await server.total(f"dyno_{name}_seconds_sum", model="slow") - old == pytest.approx(
            latency[key], abs=1e-6
        )
    assert await server.total("dyno_inter_token_seconds_count", model="slow") - gaps == 5


async def test_no_caller_makes_a_series(callers: tuple[RestCaller, RpcCaller], server: Harness) -> None:
    rest, rpc = callers

    async def nonsense(i: int) -> None:
        for caller in (rest, rpc):
            with pytest.raises(Refused):
                await caller.whole(model=f"model-{i}", prompt="x", user=f"user-{i}")
        async with server.session.put(f"{server.url}/path/{i}") as response:
            assert response.status == 404

    await nonsense(0)
    before = set(await server.series())
    await asyncio.gather(*(nonsense(i) for i in range(1, 40)))
    assert set(await server.series()) == before


async def test_answers_are_counted_by_route_and_code(server: Harness) -> None:
    labels = {"transport": "rest", "method": "/v1/models/{name:path}", "code": "404"}
    before = await server.total("dyno_transport_requests_total", **labels)
    async with server.session.get(f"{server.url}/v1/models/org/nobody") as response:
        assert response.status == 404
    assert await server.total("dyno_transport_requests_total", **labels) == before + 1


async def test_many_scrapes_at_once_are_all_answered(server: Harness) -> None:
    async def scrape(session: aiohttp.ClientSession) -> int:
        async with session.get(f"{server.url}/metrics") as response:
            return len(await response.read())

    assert min(await asyncio.gather(*(scrape(server.session) for _ in range(50)))) > 1000
