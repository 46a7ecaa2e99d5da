"""The accounts of a choice: the same on both transports, as asked for, and together what the process counts."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from model.costs import Costs
from model.operations import flops
from model.parameters import parameters
from server.limits import Limits
from tests.fakes import routes_of
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller, hang_up_after
from tests.server.kit import ACTIVE, EXPERTS, LAYERS, Harness, architecture, fake_model, running
from tests.server.test_generation import MIXTURES

pytestmark = pytest.mark.asyncio(loop_scope="module")

WISH: dict[str, Any] = {"model": "fake", "prompt": "some tokens", "max_tokens": 7, "temperature": 0}
PARTS = ("projections", "scores", "feed_forward", "experts", "router", "head")


async def test_everything_is_told_unless_it_is_declined(caller: Caller) -> None:
    [full] = await caller.whole(**WISH)
    assert all(full.facts[name] for name in ("usage", "latency", "cache", "steps", "compute", "routing"))
    [bare] = await caller.stream(**WISH, latency=False, compute=False, routing="none")
    assert [bare.facts[name] for name in ("latency", "steps", "compute", "routing")] == [None] * 4
    assert bare.facts["usage"] and bare.facts["cache"]
    [some] = await caller.stream(**WISH, latency=True, compute=False)
    assert some.facts["latency"] and some.facts["compute"] is None and some.facts["routing"]["layers"]


async def test_the_work_is_that_of_the_closed_formulas(caller: Caller) -> None:
    """A prompt of its own, so that nothing is found in the cache: each row has the logits of one position."""
    prompt = f"{type(caller).__name__} never asked this before"
    [told] = await caller.whole(**{**WISH, "prompt": prompt})
    compute, computed = told.facts["compute"], len(prompt) + 6
    whole = flops(architecture(), 0, computed)
    head = whole.head // computed
    expected = {part: getattr(whole, part) for part in PARTS} | {"head": 7 * head}
    assert compute["flops"] == {**expected, "total": whole.total - (computed - 7) * head}
    assert compute["tokens"] == computed and compute["passes"] == told.facts["steps"]["count"] == 7
    assert compute["seconds"] <= told.facts["latency"]["forward"] + 1e-9
    entry = Costs.of(architecture(), 4, 4).entry
    assert compute["cache_written_bytes"] == computed * entry
    assert compute["cache_read_bytes"] == sum(range(len(prompt), computed)) * entry
    counted = parameters(architecture())
    assert counted.active <= compute["parameters"] <= counted.total
    assert told.facts["cache"]["byte_seconds"] >= 0


async def test_what_choices_are_told_adds_up_to_what_the_process_counts(caller: Caller, server: Harness) -> None:
    """Alone and together, streamed and whole, with prefixes found in the cache."""
    names = {"dyno_flops_total": PARTS, "dyno_moved_bytes_total": ("weights_read", "cache_read", "cache_written")}
    before = {key: await counted(server, *key) for key in keys(names)}
    others = ("dyno_forward_passes_total", "dyno_step_forward_seconds_sum", "dyno_layer_expert_tokens_total")
    before_others = [await server.total(name, model="fake") for name in others]
    calls = [
        (caller.stream if i % 2 else caller.whole)(**{**WISH, "prompt": f"{i % 3} prompt", "n": 1 + i % 2})
        for i in range(9)
    ]
    told = [choice.facts for choices in await asyncio.gather(*calls) for choice in choices]
    await server.settled()
    for name, label in keys(names):
        mine = sum(told_of(facts["compute"], label) for facts in told)
        assert await counted(server, name, label) - before[name, label] == pytest.approx(mine, rel=1e-9), label
    after = [await server.total(name, model="fake") for name in others]
    passes, seconds, choices = (b - a for a, b in zip(before_others, after, strict=True))
    assert sum(facts["compute"]["passes"] for facts in told) == pytest.approx(passes)
    assert sum(facts["compute"]["seconds"] for facts in told) == pytest.approx(seconds)
    # A choice is told of the prefix that it found too: that was computed for somebody else.
    routed = sum(sum(layer["expert_tokens"]) for facts in told for layer in facts["routing"]["layers"])
    found = sum(facts["cache"]["cached_tokens"] - facts["cache"]["recomputed_tokens"] for facts in told)
    assert found > 0 and routed - found * ACTIVE * LAYERS == choices
    assert sum(facts["compute"]["tokens"] for facts in told) * ACTIVE * LAYERS == choices


def keys(names: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(name, label) for name, labels in names.items() for label in labels]


async def counted(server: Harness, name: str, label: str) -> float:
    return await server.total(name, model="fake", **{"part" if "flops" in name else "kind": label})


def told_of(compute: dict[str, Any], label: str) -> float:
    kinds = {"weights_read": "weight_bytes", "cache_read": "cache_read_bytes", "cache_written": "cache_written_bytes"}
    return float(compute[kinds[label]] if label in kinds else compute["flops"][label])


async def test_a_summary_is_what_follows_from_the_layers(caller: Caller) -> None:
    [told] = await caller.whole(**WISH, routing="layers")
    [brief] = await caller.stream(**WISH, routing="summary")
    layers, summary = told.facts["routing"]["layers"], told.facts["routing"]["summary"]
    assert brief.facts["routing"] == {"tokens": told.facts["routing"]["tokens"], "summary": summary, "layers": []}
    assert (summary["layers"], summary["experts"]) == (LAYERS, LAYERS * EXPERTS)
    for name in ("entropy", "imbalance", "busiest_share", "mean_gate", "margin"):
        assert summary[name] == pytest.approx(sum(layer[name] for layer in layers) / LAYERS)
    assert summary["lowest_entropy"] == min(layer["entropy"] for layer in layers)
    assert summary["highest_imbalance"] == max(layer["imbalance"] for layer in layers)
    assert summary["touched_experts"] == sum(count > 0 for layer in layers for count in layer["expert_tokens"])


async def test_every_token_from_a_position_on(caller: Caller) -> None:
    [told] = await caller.stream(**WISH, routing="tokens", routing_start=5)
    routed = [*b"some tokens", *told.tokens[:-1]]
    expected = routes_of(routed, 5, len(routed), MIXTURES)
    packed = told.facts["routing"]["token_routing"]
    shape = (len(routed) - 5, LAYERS, ACTIVE)
    assert (packed["start"], packed["tokens"], packed["truncated"]) == (5, len(routed) - 5, False)
    assert (np.frombuffer(packed["expert_ids"], "<i2").reshape(shape) == expected.experts).all()
    assert (np.frombuffer(packed["gates"], "<f2").reshape(shape) == expected.gates.astype(np.float16)).all()
    margins = routes_of(routed, 0, len(routed), MIXTURES).margins.mean(axis=0)
    assert [layer["margin"] for layer in told.facts["routing"]["layers"]] == pytest.approx(margins.tolist())
    [beyond] = await caller.whole(**WISH, routing="tokens", routing_start=1000)
    packed = beyond.facts["routing"]["token_routing"]
    assert (packed["start"], packed["tokens"], packed["expert_ids"], packed["truncated"]) == (1000, 0, b"", False)


@pytest.mark.parametrize(("n", "tokens"), [(1, 12), (2, 6)])
async def test_the_experts_of_single_tokens_have_a_limit(n: int, tokens: int) -> None:
    """A token takes 2 layers * 2 choices * 4 bytes; all choices of an answer share what there is."""
    limits = Limits(routing_bytes=12 * 16 + 15)
    async with running(fake_model(), limits=limits) as harness:
        caller = RestCaller(harness)
        told = await caller.whole(prompt="more than a dozen tokens", max_tokens=3, routing="tokens", n=n)
        for choice in told:
            packed = choice.facts["routing"]["token_routing"]
            assert (packed["tokens"], packed["truncated"]) == (tokens, True)
            assert len(packed["expert_ids"]) + len(packed["gates"]) == 16 * tokens
        [rest] = await caller.whole(
            prompt="more than a dozen tokens", max_tokens=3, routing="tokens", ignore_eos=True, routing_start=20
        )
        packed = rest.facts["routing"]["token_routing"]
        assert (packed["start"], packed["tokens"], packed["truncated"]) == (20, 24 + 2 - 20, False)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"xyz": 1}, "dyno.xyz"),
        ({"routing": "everything"}, "dyno.routing"),
        ({"latency": "yes"}, "dyno.latency"),
        ({"compute": 1}, "dyno.compute"),
        ({"routing_start": -1}, "dyno.routing_start"),
        ({"routing_start": 2**31}, "dyno.routing_start"),
        ({"routing_start": 1.5}, "dyno.routing_start"),
        ([], "dyno"),
        ("layers", "dyno"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_what_the_extension_does_not_know_is_refused(
    options: Any, param: str, path: str, server: Harness
) -> None:
    body = {"model": "chat", "prompt": "x", "messages": [{"role": "user", "content": "x"}], "dyno": options}
    del body["messages" if path == "/v1/completions" else "prompt"]
    async with server.session.post(server.url + path, json=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["param"] == param and param.split(".")[-1] in error["message"]


async def test_grpc_refuses_the_same(channel: Any) -> None:
    caller = RpcCaller(channel)
    with pytest.raises(Refused) as refusal:
        await caller.whole(**WISH, routing="tokens", routing_start=-1)
    assert (refusal.value.kind, refusal.value.param) == ("invalid", "dyno.routing_start")


async def test_the_older_field_of_grpc_counts_where_the_extension_says_nothing(channel: Any) -> None:
    stub = InferenceServiceStub(channel)
    older = pb.GenerateRequest(model="fake", prompt="x", routing=pb.ROUTING_DETAIL_NONE)
    assert not (await stub.Generate(older)).choices[0].finished.HasField("routing")
    older.dyno.compute = False
    told = (await stub.Generate(older)).choices[0].finished
    assert not told.HasField("routing") and not told.HasField("compute") and told.HasField("latency")
    older.dyno.routing = pb.ROUTING_DETAIL_SUMMARY
    told = (await stub.Generate(older)).choices[0].finished
    assert told.routing.summary.layers == LAYERS and not told.routing.layers


async def test_without_the_extension_nothing_is_told(server: Harness) -> None:
    async with server.session.post(f"{server.url}/v1/completions", json={**WISH, "stream": True}) as response:
        assert b"dyno" not in await response.read()
    for nothing in ({}, {"dyno": None}):
        async with server.session.post(f"{server.url}/v1/completions", json={**WISH, **nothing}) as response:
            answer = await response.json()
        assert "dyno" not in answer and "token_ids" not in answer["choices"][0]


async def test_only_the_last_event_of_a_choice_has_facts(server: Harness) -> None:
    caller = RestCaller(server)
    events = [event async for event in caller.events(**WISH, n=2)]
    ends = [event["choices"][0]["index"] for event in events if "dyno" in event]
    assert sorted(ends) == [0, 1]
    assert all(event["choices"][0]["finish_reason"] for event in events if "dyno" in event)


async def test_who_waits_for_a_neighbours_prompt_is_told_so(caller: Caller) -> None:
    reading = caller.stream(model="slow", prompt="abc", max_tokens=12, ignore_eos=True)
    prompts = [caller.whole(model="slow", prompt=f"{i}" * 120, max_tokens=1) for i in range(3)]
    [told], *_ = await asyncio.gather(reading, *prompts)
    latency = told.facts["latency"]
    assert 0 < latency["delayed"] < latency["forward"] <= latency["total"]
    assert latency["preempted"] == 0


async def test_those_that_left_are_counted_too(caller: Caller, server: Harness) -> None:
    before = await server.total("dyno_flops_total", model="slow")
    await hang_up_after(caller, 2, model="slow", prompt="gone", max_tokens=100, ignore_eos=True)
    await server.settled()
    assert await server.total("dyno_flops_total", model="slow") > before


async def test_a_session_of_another_kind_of_client_sees_the_same(server: Harness) -> None:
    """Numbers are JSON numbers: none is NaN or infinite, whatever the request."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{server.url}/v1/completions", json={"model": "chat", "prompt": "x", "max_tokens": 1, "dyno": {}}
        ) as response,
    ):
        told = (await response.json())["dyno"]["choices"][0]
    assert told["routing"] is None and told["latency"]["inter_token"]["count"] == 0
    assert told["compute"]["flops"]["experts"] == 0 and told["compute"]["flops"]["head"] > 0
